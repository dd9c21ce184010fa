"""Drop-ins for layers of PyG and torch: the same arguments, parameters and results, our backends.

`accelerate` swaps them into a model that is there already; `plans_of` says what they ran on.
"""

from graphformer.nn.gat_conv import GATConv
from graphformer.nn.gatv2_conv import GATv2Conv
from graphformer.nn.gcn_conv import GCNConv
from graphformer.nn.memory import plans_of
from graphformer.nn.multihead_attention import MultiheadAttention
from graphformer.nn.swap import Swaps, accelerate
from graphformer.nn.transformer_conv import TransformerConv

__all__ = [
    "GATConv",
    "GATv2Conv",
    "GCNConv",
    "MultiheadAttention",
    "Swaps",
    "TransformerConv",
    "accelerate",
    "plans_of",
]
