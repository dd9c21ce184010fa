"""A drop-in gives what PyG's layer gives: outputs and gradients, over graphs of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from any_graph import Edges, edges
from drop_in_cases import EDGE_DIM, IN_DIM, agree, draw_numbers, make_pair
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = st.sampled_from([torch.float64, torch.float32])
SEEDS = st.integers(0, 2**16)


def any_of(**settings: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(of) for name, of in settings.items()})


HEADS = {"heads": [1, 3], "concat": [True, False]}
LOOPS = {
    "add_self_loops": [True, False],
    "fill_value": ["mean", "add", "max", 0.5, torch.tensor([1.0, -2.0, 0.5])],
    "residual": [True, False],
    "bias": [True, False],
}
SETTINGS = {
    "TransformerConv": any_of(
        **HEADS, beta=[True, False], root_weight=[True, False], bias=[True, False]
    ),
    "GATConv": any_of(**HEADS, **LOOPS, negative_slope=[0.2, 0.7]),
    "GATv2Conv": any_of(**HEADS, **LOOPS, share_weights=[True, False]),
}


@pytest.mark.parametrize("with_edges", [False, True], ids=["", "edge features"])
@pytest.mark.parametrize("name", list(SETTINGS))
@settings(max_examples=25)
@given(data=st.data(), graph=edges(), dtype=DTYPES, seed=SEEDS)
def test_attention_agrees(
    name: str, with_edges: bool, data: st.DataObject, graph: Edges, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    edge_dim = EDGE_DIM if with_edges else None
    pair = make_pair(name, IN_DIM, 4, edge_dim=edge_dim, **data.draw(SETTINGS[name]))
    weighs = True if data.draw(st.booleans()) else None
    inputs = {"x": draw_numbers(graph.num_queries, IN_DIM)}
    if with_edges:
        inputs["bond"] = draw_numbers(graph.edge_index.shape[1], EDGE_DIM)
    agree(
        pair,
        lambda layer, given: layer(
            given["x"], graph.edge_index, given.get("bond"), return_attention_weights=weighs
        ),
        inputs,
        dtype,
    )


@pytest.mark.parametrize("with_edges", [False, True], ids=["", "edge features"])
@pytest.mark.parametrize("name", list(SETTINGS))
@settings(max_examples=25)
@given(data=st.data(), graph=edges(bipartite=True), dtype=DTYPES, seed=SEEDS)
def test_bipartite_attention_agrees(
    name: str, with_edges: bool, data: st.DataObject, graph: Edges, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    edge_dim, dims = EDGE_DIM if with_edges else None, (IN_DIM, 6)
    chosen = data.draw(SETTINGS[name])
    if chosen.pop("share_weights", False):
        dims = (IN_DIM, IN_DIM)
        chosen["share_weights"] = True
    if (
        with_edges
        and graph.num_queries > graph.num_keys
        and isinstance(chosen.get("fill_value"), str)
    ):
        # PyG sums what enters a query into as many rows as there are loops: its own layer fails.
        chosen["fill_value"] = 0.5
    pair = make_pair(name, dims, 4, edge_dim=edge_dim, **chosen)
    inputs = {
        "memory": draw_numbers(graph.num_keys, dims[0]),
        "x": draw_numbers(graph.num_queries, dims[1]),
    }
    if with_edges:
        inputs["bond"] = draw_numbers(graph.edge_index.shape[1], EDGE_DIM)
    agree(
        pair,
        lambda layer, given: layer(
            (given["memory"], given["x"]), graph.edge_index, given.get("bond")
        ),
        inputs,
        dtype,
    )


@given(
    chosen=any_of(
        improved=[True, False],
        add_self_loops=[None, False],
        normalize=[True, False],
        bias=[True, False],
        cached=[True, False],
    ),
    weighted=st.booleans(),
    graph=edges(),
    dtype=DTYPES,
    seed=SEEDS,
)
def test_gcn_agrees(
    chosen: dict[str, Any], weighted: bool, graph: Edges, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    pair = make_pair("GCNConv", IN_DIM, 4, **chosen)
    inputs = {"x": draw_numbers(graph.num_queries, IN_DIM)}
    if weighted:
        # Of repeated loops PyG keeps whichever comes last: they have one weight.
        inputs["weight"] = draw_numbers(graph.edge_index.shape[1]).abs() + 0.1
        loops = graph.edge_index[0] == graph.edge_index[1]
        inputs["weight"] = inputs["weight"].masked_fill(loops, 0.7)
    agree(
        pair,
        lambda layer, given: layer(given["x"], graph.edge_index, given.get("weight")),
        inputs,
        dtype,
    )


@pytest.mark.parametrize("name", list(SETTINGS))
def test_whatever_stands_in_for_a_map_of_edges_is_called(name: str) -> None:
    torch.manual_seed(0)
    drop, theirs = make_pair(name, IN_DIM, 4, edge_dim=EDGE_DIM)
    given = torch.nn.Sequential(torch.nn.Linear(EDGE_DIM, 4, bias=False), torch.nn.Tanh()).double()
    drop.lin_edge = theirs.lin_edge = given
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 1]])
    x, bond = draw_numbers(3, IN_DIM), draw_numbers(4, EDGE_DIM)
    torch.testing.assert_close(drop(x, edge_index, bond), theirs(x, edge_index, bond))
