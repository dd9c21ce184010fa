"""The translator in training: its loss, its optimizer, and how well it translates on the way."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from graphformer.tasks.cross_entropy import summed_cross_entropy
from graphformer.tasks.learner import Learner, SummedLoss
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.translation.attending import Translating
from graphformer.tasks.translation.corpus import PairBatch
from graphformer.tasks.translation.scores import measure
from graphformer.tasks.translation.translator import Translator


class TranslationLearner(Learner):
    """Teaches a model to guess each next word of the translation.

    Args:
        translator: the model and its vocabulary.
        learning_rate: the highest.
        label_smoothing: probability spread over all words, in training.
        samples: pairs that are translated after each epoch, greedily: `validation_bleu` and
            `validation_exact_match`.
    """

    def __init__(
        self,
        translator: Translator,
        learning_rate: float,
        label_smoothing: float,
        samples: list[tuple[str, str]],
    ) -> None:
        super().__init__()
        self.model: Translating = translator.model
        self.translator = translator
        self.learning_rate = learning_rate
        self.label_smoothing = label_smoothing
        self.samples = samples

    def compute_loss(self, batch: PairBatch) -> SummedLoss:
        hidden = self.model.hidden(batch.source, batch.target)
        smoothing = self.label_smoothing if self.training else 0.0
        weight = self.model.output_weight
        total = summed_cross_entropy(hidden, weight, batch.following, smoothing)
        return SummedLoss(total, len(batch.following))

    def on_validation_epoch_end(self) -> None:
        sources, targets = map(list, zip(*self.samples, strict=True))
        with self.trainer.precision_plugin.forward_context():
            found = self.translator.translate(sources, beam=1)
        figures = measure(found, targets).figures
        self.log("validation_bleu", figures["bleu"])
        self.log("validation_exact_match", figures["exact_match"])

    def configure_optimizers(self) -> Optimizer:
        return fused_optimizer(
            torch.optim.Adam, self.parameters(), lr=self.learning_rate, betas=(0.9, 0.98), eps=1e-9
        )
