"""Decoders of every score and topology that a model takes, small and in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from graphformer.models.sequence import LanguageModel, Size, Transformer
from graphformer.tokens import Tokens, sequences

VOCABULARY, BEGIN, END = 12, 2, 3
HEADS = 4
SIZE = Size(dim=16, heads=HEADS, layers=1, hidden=24, dropout=0.5)
ENDS = {"begin": BEGIN, "end": END}

# All names of the notation, but those that are refused, or look at edge data, which text lacks.
SCORES = {
    "dot": "DotProduct()",
    "cosine": f"Cosine({HEADS})",
    "gaussian": "Gaussian(1.5)",
    "kernel": "Kernel()",
    "mean": "Mean()",
    "additive": f"Additive({HEADS})",
    "gatv2": f"GATv2({HEADS})",
    "bahdanau": f"Bahdanau({HEADS})",
    "rotary": "Rotary(DotProduct())",
    "rotary gaussian alibi": f"Rotary(Gaussian(2.0)) + ALiBi({HEADS})",
    "alibi": f"DotProduct() + ALiBi({HEADS})",
    "t5": f"DotProduct() + T5Bias({HEADS}, buckets=8, largest=6, causal=True)",
    "gatv2 alibi": f"GATv2({HEADS}) + ALiBi({HEADS})",
}
TOPOLOGIES = {
    "causal": "causal()",
    "complete": "complete()",
    "window": "window(2)",
    "dilated": "window(2, dilation=2)",
    "strided": "strided(3) | self_loops()",
    "log sparse": "log_sparse()",
    "global tokens": "window(1) | global_tokens(1)",
    "self": "self_loops()",
    "difference": "causal() - window(1) | self_loops()",
    "shifted": "window(3) & strided(2) | global_tokens(2)",
}


def cases() -> list[tuple[str, str]]:
    """Every score, on topologies in turns; the first of either on all of the others."""
    scores, topologies = list(SCORES), list(TOPOLOGIES)
    turns = [(name, topologies[at % len(topologies)]) for at, name in enumerate(scores, start=3)]
    return list(
        dict.fromkeys(
            [(name, topologies[0]) for name in scores]
            + [(scores[0], name) for name in topologies]
            + turns
        )
    )


def make_translator(score: str = "dot", topology: str = "causal", seed: int = 2) -> Transformer:
    """A model with opinions: some sentences end at once, others never."""
    torch.manual_seed(seed)
    model = Transformer(
        VOCABULARY,
        SIZE,
        score=SCORES[score],
        positions="sinusoidal",
        decoder_topology=TOPOLOGIES[topology],
    )
    return sharpened(model)


def sharpened(model: Transformer | LanguageModel, factor: float = 2.0) -> Transformer:
    """The model in float64, with larger weights."""
    for parameter in model.parameters():
        parameter.data.mul_(factor)
    return model.double().eval()


def random_sentences(*lengths: int) -> Tokens:
    return sequences([torch.randint(4, VOCABULARY, (length,)) for length in lengths])


def examples_of(tokens: Tokens) -> list[Tokens]:
    return [sequences([ids]) for ids in tokens.unbatch()]


def log_probability(model: Transformer, source: Tensor, ids: Tensor, count: int) -> float:
    """That of the first `count` of the ids and an end behind them, without a cache."""
    target = sequences([torch.cat([torch.tensor([BEGIN]), ids])])
    steps = model(sequences([source]), target).log_softmax(-1)
    following = torch.cat([ids, torch.tensor([END])])[:count]
    return float(steps[:count].gather(1, following.unsqueeze(1)).sum())
