"""A token graph as a networkx graph, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx
import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graphformer.graph import TokenGraph

# Up to so many tokens links can be told apart; beyond, the adjacency matrix is clearer.
LINKED_TOKENS = 40
# Pixels of a side of the adjacency picture; larger graphs are counted into so many bins.
LARGEST_PICTURE = 512


def to_networkx(graph: TokenGraph) -> networkx.DiGraph:
    """An edge key -> query for each pair, with edge data as attributes.

    Nodes are token ids, with `example` and `position`. Where keys are other tokens than queries,
    nodes are ("query", id) and ("key", id). Repeated edges need a multigraph, so graphs that
    hold them give a `MultiDiGraph`.
    """
    result = networkx.MultiDiGraph() if graph.repeats else networkx.DiGraph()
    sides = [("query", graph.queries)] + ([("key", graph.keys)] if graph.bipartite else [])
    for side, layout in sides:
        positions, examples = layout.at[:, 0].tolist(), layout.example.tolist()
        for token, (example, position) in enumerate(zip(examples, positions, strict=True)):
            node = (side, token) if graph.bipartite else token
            result.add_node(node, example=example, position=position)
    named = [name for name, value in graph.edge_data.items() if value.values is not None]
    values = {name: graph.edge_values(name).tolist() for name in named}
    for edge, (key, query) in enumerate(graph.edge_index.T.tolist()):
        data = {name: rows[edge][0] if len(rows[edge]) == 1 else rows[edge]
                for name, rows in values.items()}  # fmt: skip
        if graph.bipartite:
            result.add_edge(("key", key), ("query", query), **data)
        else:
            result.add_edge(key, query, **data)
    return result


def draw(graph: TokenGraph, axes: Axes | None = None) -> Axes:
    """Nodes on a circle with their links for up to 40 tokens, the adjacency matrix beyond.

    In the matrix a row is a query and a column a key, as in a picture of attention weights.

    Raises:
        ModuleNotFoundError: if matplotlib is missing; it comes with `graphformer[plots]`.
    """
    try:
        import matplotlib.pyplot as pyplot
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "drawing needs matplotlib; pip install 'graphformer[plots]'"
        ) from None
    if axes is None:
        axes = pyplot.subplots(figsize=(5, 5))[1]
    if max(graph.queries.num_tokens, graph.keys.num_tokens) <= LINKED_TOKENS:
        _draw_links(graph, axes)
    else:
        _draw_matrix(graph, axes)
    axes.set_title(f"{graph.topology!r}\n{graph.num_edges:,} edges, density {graph.density:.2%}")
    return axes


def _draw_links(graph: TokenGraph, axes: Axes) -> None:
    drawn = to_networkx(graph)
    if graph.bipartite:
        keys = [node for node in drawn if node[0] == "key"]
        layout = networkx.bipartite_layout(drawn, keys)
        labels = {node: str(node[1]) for node in drawn}
    else:
        layout = networkx.circular_layout(drawn)
        labels = {node: str(node) for node in drawn}
    drawn.remove_edges_from(list(networkx.selfloop_edges(drawn)))
    networkx.draw_networkx(
        drawn, layout, labels=labels, ax=axes, node_size=220, font_size=7,
        node_color="#cfe0f5", edge_color="#5a6b7f", width=0.7, arrowsize=7,
    )  # fmt: skip
    axes.set_axis_off()


def _draw_matrix(graph: TokenGraph, axes: Axes) -> None:
    rows, columns = graph.queries.num_tokens, graph.keys.num_tokens
    bins = (min(rows, LARGEST_PICTURE), min(columns, LARGEST_PICTURE))
    row = torch.div(torch.arange(rows) * bins[0], rows, rounding_mode="floor")
    column = torch.div(torch.arange(columns) * bins[1], columns, rounding_mode="floor")
    key, query = graph.edge_index.cpu()
    counts = torch.bincount(row[query] * bins[1] + column[key], minlength=bins[0] * bins[1])
    pairs = row.bincount(minlength=bins[0]).unsqueeze(1) * column.bincount(minlength=bins[1])
    share = (counts.view(bins) / pairs).numpy()
    axes.imshow(
        np.sqrt(share), cmap="Blues", vmin=0, vmax=1, extent=(0, columns, rows, 0),
        interpolation="nearest", aspect="auto",
    )  # fmt: skip
    axes.set_xlabel("key")
    axes.set_ylabel("query")
