"""The translator in training: its loss, its optimizer, and how well it translates on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from graphformer.data.parallel import Pairs
from graphformer.machine import give_back_free_memory
from graphformer.tasks.cross_entropy import summed_cross_entropy
from graphformer.tasks.learner import Learner, SummedLoss
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.r_drop import summed_r_drop
from graphformer.tasks.translation.attending import Translating
from graphformer.tasks.translation.corpus import PairBatch
from graphformer.tasks.translation.decoding import best_of
from graphformer.tasks.translation.scores import measure
from graphformer.tasks.translation.settings import Search
from graphformer.tasks.translation.translator import Translator


class TranslationLearner(Learner):
    """Teaches a model to guess each next word of the translation.

    Args:
        translator: the model and its vocabulary.
        learning_rate: the highest.
        label_smoothing: probability spread over all words, in training.
        samples: pairs that are translated after each epoch, greedily: `validation_bleu` and
            `validation_exact_match`.
        r_drop: how much it counts, in training, that two passes with different dropout differ; at
            0 there is one pass.
        tokenize: how `validation_bleu` finds words.
    """

    def __init__(
        self,
        translator: Translator,
        learning_rate: float,
        label_smoothing: float,
        samples: Pairs,
        r_drop: float = 0.0,
        tokenize: str = "13a",
    ) -> None:
        super().__init__()
        self.model: Translating = translator.model
        self.translator = translator
        self.learning_rate = learning_rate
        self.label_smoothing = label_smoothing
        self.samples = samples
        self.r_drop = r_drop
        self.tokenize = tokenize

    def compute_loss(self, batch: PairBatch) -> SummedLoss:
        smoothing = self.label_smoothing if self.training else 0.0
        r_drop = self.r_drop if self.training else 0.0
        source, target, following = batch
        weight = self.model.output_weight
        if not r_drop:
            hidden = self.model.hidden(source, target)
            total = summed_cross_entropy(hidden, weight, following, smoothing)
            return SummedLoss(total, len(following))
        # Not one batch of each sentence twice, whose every table would be twice as large.
        graphs: Any = self.model.bind(source, target)
        first, second = (self.model.hidden(source, target, graphs) for _ in range(2))
        total = summed_r_drop(first, second, weight, following, smoothing, r_drop)
        return SummedLoss(total, len(following))

    def on_train_epoch_end(self) -> None:
        # Tensors of ever other lengths leave holes that none after them fits: without this a
        # process grows to several times what a step needs.
        if self.device.type == "cpu":
            give_back_free_memory()

    def on_validation_epoch_end(self) -> None:
        sources, targets = map(list, zip(*self.samples, strict=True))
        found = best_of(self.translator, sources, Search(beam=1), "the validation set")
        figures = measure(found, targets, self.tokenize).figures
        self.log("validation_bleu", figures["bleu"])
        self.log("validation_exact_match", figures["exact_match"])

    def configure_optimizers(self) -> Optimizer:
        return fused_optimizer(
            torch.optim.Adam, self.parameters(), lr=self.learning_rate, betas=(0.9, 0.98), eps=1e-9
        )
