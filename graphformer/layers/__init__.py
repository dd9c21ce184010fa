"""Layers: attention and feed-forward networks over flat tokens, blocks of them, and the cache."""

from graphformer.layers.attention import Attention
from graphformer.layers.block import Block
from graphformer.layers.cache import Cache
from graphformer.layers.convolution import GraphConvolution
from graphformer.layers.dropout import Dropout
from graphformer.layers.feed_forward import ConvFeedForward, FeedForward

__all__ = [
    "Attention",
    "FeedForward",
    "ConvFeedForward",
    "Block",
    "GraphConvolution",
    "Dropout",
    "Cache",
]
