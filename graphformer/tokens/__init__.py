"""Sentences, images, series and graphs as one flat batch of tokens."""

from graphformer.tokens.graphs import nodes
from graphformer.tokens.images import patches
from graphformer.tokens.sentences import sequences
from graphformer.tokens.tokens import Tokens
from graphformer.tokens.windows import series

__all__ = ["Tokens", "nodes", "patches", "sequences", "series"]
