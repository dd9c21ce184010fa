"""Attention is message passing: one operator, whose settings are transformers and graph networks.

`out_i = sum over j in N(i) of a_ij * v_j`, where a topology says who is in `N(i)` and a score
says how large `a_ij` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphformer.attend import attend, explain, plan
from graphformer.backends import Attended
from graphformer.edge_data import hop_distance
from graphformer.graph import EdgeValues, Side, TokenGraph
from graphformer.layout import Layout, Pair
from graphformer.planner import Plan
from graphformer.scores import (
    Additive,
    ALiBi,
    Bahdanau,
    Bias,
    BilinearScore,
    Cosine,
    DotProduct,
    EdgeBias,
    EdgeDot,
    GATv2,
    Gaussian,
    HopBias,
    Kernel,
    LeakyReLU,
    Mean,
    PairwiseScore,
    Rotary,
    Score,
    SoftCap,
    SymmetricDegree,
    T5Bias,
)
from graphformer.tokens import Tokens, nodes, patches, sequences, series
from graphformer.topology import (
    Topology,
    causal,
    complete,
    edges,
    expander,
    from_networkx,
    global_tokens,
    grid,
    hops,
    log_sparse,
    nearest,
    self_loops,
    strided,
    where,
    window,
)

if TYPE_CHECKING:
    from graphformer import nn
    from graphformer.nn import accelerate

__version__ = "0.1.0"

__all__ = [
    "ALiBi",
    "Additive",
    "Attended",
    "Bahdanau",
    "Bias",
    "BilinearScore",
    "Cosine",
    "DotProduct",
    "EdgeBias",
    "EdgeDot",
    "EdgeValues",
    "GATv2",
    "Gaussian",
    "HopBias",
    "Kernel",
    "Layout",
    "LeakyReLU",
    "Mean",
    "Pair",
    "PairwiseScore",
    "Plan",
    "Rotary",
    "Score",
    "Side",
    "SoftCap",
    "SymmetricDegree",
    "T5Bias",
    "TokenGraph",
    "Tokens",
    "Topology",
    "accelerate",
    "attend",
    "causal",
    "complete",
    "edges",
    "expander",
    "explain",
    "from_networkx",
    "global_tokens",
    "grid",
    "hop_distance",
    "hops",
    "log_sparse",
    "nearest",
    "nn",
    "nodes",
    "patches",
    "plan",
    "self_loops",
    "sequences",
    "series",
    "strided",
    "where",
    "window",
]


def __dir__() -> list[str]:
    """All names, those that are loaded late among them."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """The drop-ins, which import all layers of PyG, are loaded when they are asked for."""
    if name not in {"accelerate", "nn"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    drop_ins = import_module("graphformer.nn")
    return drop_ins if name == "nn" else drop_ins.accelerate
