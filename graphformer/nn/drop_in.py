"""What the drop-ins for PyG have in common: which calls are theirs, and over which graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn.aggr import SumAggregation
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.utils import (
    add_self_loops,
    is_torch_sparse_tensor,
    remove_self_loops,
    to_edge_index,
)

from graphformer.attend import attend
from graphformer.backends import Attended, kernels
from graphformer.graph import TokenGraph
from graphformer.nn.memory import remembered
from graphformer.scores import Score

Forward = TypeVar("Forward", bound=Callable[..., Any])

# What PyG calls for each message: a class or a layer that has its own is not ours to replace.
STEPS = ("message", "aggregate", "update", "edge_update", "message_and_aggregate")
# What calls them.
CALLERS = ("propagate", "edge_updater")
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
MESSAGE_HOOKS = tuple(
    f"_{step}_forward{kind}_hooks"
    for step in ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
    for kind in ("_pre", "")
)


class DropIn(MessagePassing):
    """A layer of PyG whose sums run through `attend`, and whose other calls run as in PyG.

    It is PyG's class in all but `forward`: constructor, parameters, `state_dict` and `repr` are
    inherited, and an instance of the one can become one of the other.
    """

    plans_by = "edge_index"

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        # PyG writes `propagate` anew for each class. What it wrote for the class above serves here,
        # unless a subclass has messages of its own.
        kind: Any = type(self)
        if _own_steps(kind):
            return
        # It looks for the calls of `propagate` in sources that it knows by the name of a class, and
        # the drop-in, whose `forward` has none, is called as the class above.
        above = _origin(kind)
        self.inspector._source_dict[above.__name__] = inspect.getsource(above)
        super()._set_jittable_templates(raise_on_error)


def eager(forward: Forward) -> Forward:
    """`forward` as it is, between what `torch.compile` makes of the code around it."""
    why = "a drop-in of graphformer.nn knows the graph of edge_index by its identity"
    found: Forward = torch.compiler.disable(forward, reason=why)
    return found


class Ends(NamedTuple):
    """How many tokens there are on both sides of the edges.

    Attributes:
        num_keys: source nodes.
        num_queries: target nodes.
        num_loops: nodes that are given a self loop in place of those that they have; None where
            edges are taken as they are.
    """

    num_keys: int
    num_queries: int
    num_loops: int | None = None


def why_not(layer: MessagePassing) -> str | None:
    """Why the sums of a layer are PyG's to compute, or None where they are ours."""
    if layer.explain:
        return "an explainer is active"
    if layer.flow != "source_to_target":
        return f"its flow is {layer.flow}"
    if type(layer.aggr_module) is not SumAggregation:
        return f"its messages are aggregated by {layer.aggr_module}"
    if layer.decomposed_layers != 1:
        return f"its features are taken in {layer.decomposed_layers} parts"
    if any(layer.__dict__[name] for name in MESSAGE_HOOKS):
        return "it has hooks on its messages"
    if _is_observed(layer.aggr_module):
        return "its aggregation has hooks, or a forward of its own"
    kind: Any = type(layer)
    if not _own_steps(kind) or not layer.__dict__.keys().isdisjoint(STEPS):
        return "its messages are not PyG's own"
    if any(_is_replaced(layer, caller) for caller in CALLERS):
        return "its messages are not PyG's own"
    if getattr(layer, "dropout", 0.0) >= 1:
        return "it drops everything"
    return None


def why_no_kernel(layer: MessagePassing) -> str | None:
    """Why the kernels for edges cannot compute with the weights of a layer, or None."""
    for weight in layer.parameters():
        if weight.device.type != "cpu":
            return f"its weights are on {weight.device}, and edges have kernels on the CPU alone"
        if weight.dtype not in kernels.DTYPES:
            return f"its weights are {weight.dtype}, for which edges have no kernels"
    return None


def is_transformed() -> bool:
    """Whether what runs is traced or transformed, so that a tensor is not what it seems."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        # Forward mode, where a tensor has a tangent.
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_ours(layer: MessagePassing, x: tuple[Any, ...], edge_index: Any) -> bool:
    """Whether `attend` can run this call; the others keep PyG's own results and errors.

    Args:
        layer: the drop-in.
        x: features of keys and queries; None for queries that have none.
        edge_index: edges in any form that PyG takes.
    """
    if not isinstance(edge_index, Tensor) or why_not(layer) is not None:
        return False
    for part in x:
        if part is not None and (part.dim() != 2 or not part.shape[0]):
            return False
    if is_transformed():
        return False
    if edge_index.layout is torch.strided:
        is_pairs = edge_index.dim() == 2 and edge_index.shape[0] == 2
        return is_pairs and edge_index.dtype in (torch.int64, torch.int32)
    return edge_index.dense_dim() == 0 and edge_index.layout is not torch.sparse_csc


def fits(ends: Ends, edge_index: Tensor) -> bool:
    """Whether the adjacency, where it knows its size, has these ends."""
    if isinstance(edge_index, EdgeIndex):
        rows, columns = edge_index.sparse_size()
        return rows in (None, ends.num_keys) and columns in (None, ends.num_queries)
    if edge_index.layout is torch.strided:
        return True
    return tuple(edge_index.shape) == (ends.num_queries, ends.num_keys)


def bound(edge_index: Tensor, ends: Ends) -> TokenGraph:
    """The graph of these edges, repeats included, bound once for all layers and calls.

    Its edge data "edge" are ones, which `with_edge_data` replaces.
    """
    return remembered(edge_index, ends, lambda: _bind(edge_index, ends))


def loops_added(
    edge_index: Tensor, edge_attr: Tensor | None, fill_value: Any, ends: Ends
) -> tuple[Tensor, Tensor | None]:
    """Edges and their data with one self loop a node, in the order of `bound`."""
    if ends.num_loops is None:
        return edge_index, edge_attr
    edge_index, edge_attr = remove_self_loops(edge_index, edge_attr)
    found: tuple[Tensor, Tensor | None] = add_self_loops(
        edge_index, edge_attr, fill_value=fill_value, num_nodes=ends.num_loops
    )
    return found


def sums(
    parts: tuple[Tensor | None, ...],
    graph: TokenGraph,
    score: Score,
    **asked: Any,
) -> Attended:
    """What `attend` gives of query, key and value, whether or not an extra is asked for."""
    query, key, value = parts
    assert value is not None
    found = attend(query, key, value, graph, score, **asked)
    return found if isinstance(found, Attended) else Attended(found)


def plain(edge_index: Tensor) -> Tensor:
    """Edges as a tensor and nothing else."""
    return edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index


def _bind(edge_index: Tensor, ends: Ends) -> TokenGraph:
    found = loops_added(edge_index, None, 1.0, ends)[0]
    if is_torch_sparse_tensor(found):
        # PyG's adjacency is transposed: a row is a query.
        found = to_edge_index(found)[0].flip(0)
    edges = plain(found)
    ones = torch.ones((), device=edges.device).expand(edges.shape[1])
    num_keys = None if ends.num_keys == ends.num_queries else ends.num_keys
    return TokenGraph.from_edge_index(edges, ends.num_queries, num_keys, edge=ones)


def _is_observed(module: nn.Module) -> bool:
    """Whether a module has hooks, or a `forward` of its own."""
    return any(getattr(module, name) for name in HOOKS) or "forward" in vars(module)


def _is_replaced(layer: MessagePassing, caller: str) -> bool:
    """Whether a layer has a caller of its own; explainers that left have put PyG's back."""
    own = layer.__dict__.get(caller)
    function = getattr(own, "__func__", own)
    written = (vars(kind).get(f"_jinja_{caller}") for kind in type(layer).__mro__)
    return own is not None and all(function is not each for each in written)


@cache
def _own_steps(kind: Any) -> bool:
    """Whether a class computes its messages as the class of PyG does."""
    return all(getattr(kind, step) is getattr(_origin(kind), step) for step in STEPS)


def _origin(kind: Any) -> Any:
    """The class of PyG that a drop-in, or a subclass of one, stands for."""
    return next(cls for cls in kind.__mro__ if cls.__module__.startswith("torch_geometric."))
