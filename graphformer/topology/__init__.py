"""Who may attend to whom: sets of (query, key) pairs, their algebra and their notation."""

from __future__ import annotations

from graphformer.topology.algebra import Topology
from graphformer.topology.band import Band, causal, complete, self_loops, strided, window
from graphformer.topology.block import Block, global_tokens
from graphformer.topology.edge_list import Edges, GivenEdges, NamedEdges, edges, from_networkx
from graphformer.topology.lattice import Grid, grid
from graphformer.topology.neighbors import Nearest, nearest
from graphformer.topology.operators import Difference, Intersection, Transpose, Union
from graphformer.topology.paths import Hops, hops
from graphformer.topology.powers import Powers, log_sparse
from graphformer.topology.predicate import Where, where
from graphformer.topology.random_regular import Expander, expander

__all__ = [
    "Topology",
    "complete",
    "causal",
    "window",
    "strided",
    "log_sparse",
    "global_tokens",
    "self_loops",
    "grid",
    "expander",
    "edges",
    "hops",
    "nearest",
    "where",
    "from_networkx",
    "Band",
    "Block",
    "Powers",
    "Grid",
    "Expander",
    "Edges",
    "GivenEdges",
    "NamedEdges",
    "Hops",
    "Nearest",
    "Where",
    "Union",
    "Intersection",
    "Difference",
    "Transpose",
]
