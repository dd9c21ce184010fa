"""How strongly a query attends to a key: scores, and the biases that add to them."""

from graphformer.scores.additive import Additive, Bahdanau, GATv2
from graphformer.scores.biases import ALiBi, EdgeBias, HopBias, T5Bias
from graphformer.scores.fixed import Mean, SymmetricDegree
from graphformer.scores.pointwise import Identity, LeakyReLU, Pointwise, SoftCap
from graphformer.scores.products import Cosine, DotProduct, EdgeDot, Gaussian, Kernel
from graphformer.scores.rotary import Rotary
from graphformer.scores.score import Bias, Biased, BilinearScore, PairwiseScore, Score

__all__ = [
    "ALiBi",
    "Additive",
    "Bahdanau",
    "Bias",
    "Biased",
    "BilinearScore",
    "Cosine",
    "DotProduct",
    "EdgeBias",
    "EdgeDot",
    "GATv2",
    "Gaussian",
    "HopBias",
    "Identity",
    "Kernel",
    "LeakyReLU",
    "Mean",
    "PairwiseScore",
    "Pointwise",
    "Rotary",
    "Score",
    "SoftCap",
    "SymmetricDegree",
    "T5Bias",
]
