"""Decoding: the likeliest next token, the likeliest sequences of a beam, samples, alignments."""

from graphformer.models.decode.alignment import align
from graphformer.models.decode.beam import beam_search
from graphformer.models.decode.greedy import greedy
from graphformer.models.decode.sampling import Draw, sample
from graphformer.models.decode.state import Decoder, Hypothesis

__all__ = ["greedy", "beam_search", "sample", "Draw", "align", "Hypothesis", "Decoder"]
