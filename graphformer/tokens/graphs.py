"""Nodes of graphs as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from graphformer.tokens.flat import flat
from graphformer.tokens.tokens import Tokens


def nodes(graph: Data | networkx.Graph, attributes: Sequence[str] = ()) -> Tokens:
    """One token for each node, at its index in its graph; each graph of a batch is an example.

    Edges stay where they are: `edges(batch.edge_index).bind(nodes(batch))`.

    Args:
        graph: a PyG `Data` or `Batch`, whose `x` is taken (values [node, dim] or ids [node]); or a
            networkx graph, in the order of `graph.nodes`.
        attributes: node attributes of a networkx graph, joined into `x` in this order: numbers, or
            sequences of numbers.

    Raises:
        TypeError: if it is no such graph.
        ValueError: if it has no nodes, lacks its features, or they hold NaN or are not numbers.
    """
    if isinstance(graph, networkx.Graph):
        return flat(_of_attributes(graph, attributes), [graph.number_of_nodes()])
    if isinstance(graph, HeteroData):
        raise TypeError("nodes takes graphs of one type of node: write data.to_homogeneous().")
    if not isinstance(graph, Data):
        raise TypeError(
            f"nodes takes a PyG Data or Batch or a networkx graph, not a {type(graph).__name__}: "
            "of several graphs, write Batch.from_data_list(graphs)."
        )
    if attributes:
        raise ValueError("nodes takes attributes of a networkx graph only: set data.x instead.")
    return flat(_features(graph), _lengths(graph))


def _features(data: Data) -> Tensor:
    x = data.x
    if not isinstance(x, Tensor):
        raise ValueError(
            "nodes got a graph without features: set data.x, for instance to "
            "torch.ones(data.num_nodes, 1)."
        )
    if x.layout != torch.strided:
        raise ValueError("nodes got a sparse data.x: write data.x = data.x.to_dense().")
    if x.ndim not in (1, 2) or (x.ndim == 1 and x.is_floating_point()):
        raise ValueError(
            f"nodes got data.x of {x.dtype} and shape {tuple(x.shape)}: it is values [node, dim] "
            "or integer ids [node]."
        )
    return x


def _lengths(data: Data) -> list[int]:
    """Nodes of each graph; a `Data` that is no batch is one graph."""
    if data.get("ptr") is not None:
        lengths = data.ptr.diff().tolist()
    elif data.get("batch") is not None:
        if (data.batch.diff() < 0).any():
            raise ValueError("nodes got data.batch out of order: sort the nodes by their graph.")
        lengths = data.batch.bincount().tolist()
    else:
        return [data.x.shape[0]]
    if sum(lengths) != data.x.shape[0]:
        raise ValueError(
            f"nodes got features of {data.x.shape[0]} nodes in a batch of {sum(lengths)} nodes: "
            "set x on each graph before Batch.from_data_list."
        )
    return lengths


def _of_attributes(graph: networkx.Graph, attributes: Sequence[str]) -> Tensor:
    if graph.number_of_nodes() == 0:
        raise ValueError("nodes got a graph without nodes.")
    known = sorted({str(name) for _, values in graph.nodes(data=True) for name in values})
    if isinstance(attributes, str) or not attributes:
        raise ValueError(
            f"nodes got attributes={attributes!r} for a networkx graph: list those that make x, as "
            f'in nodes(graph, ["weight"]). Its nodes have {known}.'
        )
    rows = []
    for node, values in graph.nodes(data=True):
        for name in attributes:
            if name not in values:
                raise ValueError(
                    f"nodes found no attribute {name!r} at node {node!r}; nodes have {known}."
                )
        rows.append(torch.cat([_numbers(values[name], name, node) for name in attributes]))
        if rows[-1].shape != rows[0].shape:
            raise ValueError(
                f"nodes got {rows[-1].shape[0]} numbers at node {node!r} and {rows[0].shape[0]} at "
                "the first: give every node as many."
            )
    return torch.stack(rows)


def _numbers(value: Any, name: str, node: Any) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.get_default_dtype()).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"nodes takes numbers, and attribute {name!r} of node {node!r} is {value!r}."
        ) from error
