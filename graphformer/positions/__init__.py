"""Encodings: where a token stands, as values to add to `x` or to join with it."""

from graphformer.positions.calendar import time_features
from graphformer.positions.centrality import Degree, degrees
from graphformer.positions.learned import Learned
from graphformer.positions.sinusoid import sinusoidal
from graphformer.positions.spectrum import laplacian, random_signs
from graphformer.positions.walks import random_walk

__all__ = [
    "sinusoidal",
    "Learned",
    "time_features",
    "laplacian",
    "random_signs",
    "random_walk",
    "degrees",
    "Degree",
]
