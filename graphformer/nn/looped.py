"""What `GATConv` and `GATv2Conv` have in common: self loops, and what follows the sums."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils import is_torch_sparse_tensor
from torch_geometric.utils.sparse import set_sparse_value

from graphformer.nn.drop_in import Ends, fits, is_ours, loops_added
from graphformer.nn.linear_maps import plus


def ends_of(
    layer: Any, x: tuple[Any, Any], edge_index: Any, edge_attr: Any, size: Any
) -> Ends | None:
    """The ends of the edges, or None where the call is PyG's.

    Args:
        layer: the drop-in.
        x: features of keys and queries; None for queries that have none.
        edge_index: edges in any form that PyG takes.
        edge_attr: edge features, or None.
        size: numbers of keys and queries, where the caller says them.
    """
    if not is_ours(layer, x, edge_index) or (size is not None and None in size):
        return None
    memory, target = x
    sparse = is_torch_sparse_tensor(edge_index)
    if edge_attr is not None and (sparse or edge_attr.dim() not in (1, 2)):
        return None
    num_keys = num_queries = memory.shape[0]
    if target is not None:
        num_queries = target.shape[0]
    elif size is not None:
        num_queries = size[1]
    elif sparse:
        num_queries = edge_index.shape[0]
    elif isinstance(edge_index, EdgeIndex):
        return None
    if size is not None and (sparse or tuple(size) != (num_keys, num_queries)):
        return None
    loops = min(num_keys, num_queries) if layer.add_self_loops else None
    ends = Ends(num_keys, num_queries, loops)
    return ends if fits(ends, edge_index) else None


def edge_features(layer: Any, edge_index: Tensor, edge_attr: Tensor, ends: Ends) -> Tensor:
    """Features [edge, dim] of the edges of `bound`, those of added self loops filled in."""
    filled = loops_added(edge_index, edge_attr, layer.fill_value, ends)[1]
    assert filled is not None
    return filled if filled.dim() == 2 else filled.unsqueeze(1)


def finish(layer: Any, out: Tensor, target: Tensor | None) -> Tensor:
    """The sums of the heads [query, head, dim], joined, with residual and bias."""
    out = out.flatten(1) if layer.concat else out.mean(1)
    if layer.res is not None and target is not None:
        out = out + layer.res(target)
    return out if layer.bias is None else plus(out, layer.bias)


def with_weights(
    out: Tensor, edge_index: Tensor, ends: Ends, weights: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The output, and the weights beside their edges, as PyG returns them."""
    edge_index = loops_added(edge_index, None, 1.0, ends)[0]
    if is_torch_sparse_tensor(edge_index):
        edge_index = set_sparse_value(edge_index, weights)
    return out, (edge_index, weights)
