"""What a topology refuses, before any work: what came, what was needed, what to write instead."""

from __future__ import annotations

import re

import pytest
import torch
from layouts import make_layout

from graphformer.topology import (
    Band,
    Topology,
    causal,
    edges,
    expander,
    global_tokens,
    grid,
    hops,
    nearest,
    strided,
    where,
    window,
)
from graphformer.topology.arguments import edge_ids, whole_number


def raises(kind: type[Exception], *parts: str) -> object:
    """Expects an error whose message has these parts, in this order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, parts)))


def test_numbers_too_small_are_refused() -> None:
    with raises(ValueError, "window() got radius=-1", "at least 0"):
        window(-1)
    with raises(ValueError, "window() got dilation=0", "at least 1"):
        window(3, dilation=0)
    with raises(ValueError, "strided() got step=0", "at least 1"):
        strided(0)
    with raises(ValueError, "global_tokens() got n=-2", "at least 0"):
        global_tokens(-2)
    with raises(ValueError, "expander() got degree=0", "at least 1"):
        expander(0)
    with raises(ValueError, "expander() got seed=-1", "at least 0"):
        expander(3, seed=-1)
    with raises(ValueError, "grid() got shape=0", "at least 1"):
        grid((3, 0), 1)
    with raises(ValueError, "grid() got radius=-1", "at least 0"):
        grid((3, 3), -1)
    with raises(ValueError, "hops() got k=0", "at least 1"):
        hops("bond", 0)
    with raises(ValueError, "nearest() got k=0", "at least 1"):
        nearest(torch.zeros(3, 2), 0)
    with raises(ValueError, "Band() got step=0", "at least 1"):
        Band(step=0)


def test_what_is_no_whole_number_is_refused() -> None:
    with raises(TypeError, "window() got radius=1.5, a float", "whole number of at least 0"):
        whole_number("window", "radius", 1.5, 0)
    with raises(TypeError, "window() got radius=True, a bool"):
        whole_number("window", "radius", True, 0)
    with raises(TypeError, "Band() got low='3', a str: write a whole number"):
        whole_number("Band", "low", "3")
    with raises(TypeError, "grid() got shape=()", "grid((14, 14), 1)"):
        grid((), 1)


def test_edges_of_another_form_are_refused() -> None:
    with raises(TypeError, "edges() got a list", "integer tensor [2, edge]"):
        edge_ids("edges", [[0], [1]])
    with raises(TypeError, "edge_index of torch.float32", "edge_index.long()"):
        edges(torch.zeros(2, 3))
    with raises(TypeError, "edge_index of torch.bool", "nonzero().T"):
        edges(torch.zeros(3, 3, dtype=torch.bool))
    with raises(ValueError, "shape [5, 2]", "write edge_index.T"):
        edges(torch.zeros(5, 2, dtype=torch.int64))
    with raises(ValueError, "shape [4]", "write [2, edge]"):
        edges(torch.zeros(4, dtype=torch.int64))


def test_edges_that_do_not_fit_the_tokens_are_refused() -> None:
    tokens = make_layout([2, 3], num_virtual=1)

    def resolve(*pairs: tuple[int, int]) -> None:
        edges(torch.tensor(pairs).T).resolve(tokens, tokens, {})

    with raises(ValueError, "row 0 (keys) names token 7", "has 5 tokens", "ids are 0 to 4"):
        resolve((7, 1))
    with raises(ValueError, "row 1 (queries) names token -1", "has 5 tokens"):
        resolve((0, -1))
    with raises(
        ValueError,
        "joins two examples: edge 1 goes from key 1 of example 0 to query 2 of example 1",
    ):
        resolve((0, 1), (1, 2))
    with raises(
        ValueError,
        "has 1 repeated edge, from",
        "key 3 to query 2",
        "coalesce",
        "TokenGraph.from_edge_index",
    ):
        resolve((0, 1), (3, 2), (3, 2))


def test_unknown_names_of_edges_are_refused_with_those_there_are() -> None:
    tokens = make_layout([3])
    known = {"bond": torch.zeros(2, 0, dtype=torch.int64), "contact": torch.zeros(2, 0).long()}
    with raises(ValueError, 'edges("bnd")', "'bond', 'contact'", "bnd=EdgeValues(edge_index)"):
        (edges("bnd") | causal()).resolve(tokens, tokens, known)
    with raises(ValueError, "the names given are: none"):
        edges("bond").list_edges(tokens, tokens)


def test_edges_of_another_batch_are_refused() -> None:
    tokens, others = make_layout([3]), make_layout([4])
    bound = edges(torch.tensor([[0], [1]])).resolve(tokens, tokens, {})
    for ask in (bound.list_edges, bound.count_edges):
        with raises(ValueError, "3 queries and 3 keys", "not to these 4 and 4", 'edges("name")'):
            ask(others, others)


def test_features_that_do_not_fit_are_refused() -> None:
    tokens = make_layout([2, 3], num_virtual=1)
    with raises(TypeError, "nearest() got x of torch.int64", "floating features"):
        nearest(torch.zeros(5, 2, dtype=torch.int64), 1)
    with raises(ValueError, "x of shape [5]", "[token, dim]"):
        nearest(torch.zeros(5), 1)
    with raises(ValueError, "NaN or infinite"):
        nearest(torch.tensor([[float("nan")]]), 1)
    with raises(ValueError, "features of 7 tokens, the batch has 5", "one row a token"):
        nearest(torch.zeros(7, 2), 1).resolve(tokens, tokens, {})


def test_what_joins_one_set_refuses_two() -> None:
    queries, keys = make_layout([3]), make_layout([4])
    edge_index = torch.tensor([[0], [1]])
    for topology in (expander(3), hops(edge_index, 2), nearest(torch.zeros(3, 1), 2)):
        with raises(ValueError, "bind it without keys"):
            topology.resolve(queries, keys, {})


def test_an_expander_is_refused_in_a_decoder() -> None:
    query, cache = make_layout([1], positions=[4]), make_layout([5])
    with raises(ValueError, "expander(3) depends on the size", "window and global_tokens"):
        (expander(3) & causal()).resolve(query, cache, {})


def test_a_grid_is_refused_where_tokens_stand_elsewhere() -> None:
    tokens = make_layout([9])
    with raises(ValueError, "needs positions on 3 axes", "have 2", "patches(images, size)"):
        grid((2, 2, 2), 1).resolve(tokens, tokens, {})
    with raises(ValueError, "outside the grid: token 6 stands at [2, 0]", "largest shape"):
        grid((2, 3), 1).resolve(tokens, tokens, {})


def test_predicates_of_another_form_are_refused() -> None:
    tokens = make_layout([3])
    with raises(TypeError, "returned torch.int64 of shape", "return torch.bool [..., 1]"):
        where(lambda pair: pair.distance).list_edges(tokens, tokens)
    with raises(TypeError, "returned a bool", "pair.distance % 2 == 0"):
        where(lambda pair: True).list_edges(tokens, tokens)


def test_operators_refuse_what_is_no_topology() -> None:
    with raises(TypeError, "| joins two topologies", "the function causal", "call it"):
        window(1) | causal
    with raises(TypeError, "& joins two topologies", "a Tensor", "edges(edge_index)"):
        window(1) & torch.zeros(2, 1)
    with raises(TypeError, "neither true nor false", "| & -"):
        bool(window(1))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("windw(3)", ["unknown name 'windw'", "known are complete, causal, window"]),
        ("windw", ["unknown name 'windw'"]),
        ("window", ["window is a function", "window(...)"]),
        ("window(3", ["cannot read the topology 'window(3'", "window(8) | global_tokens(1)"]),
        ("", ["cannot read the topology ''"]),
        ("window(3) + causal()", ["cannot read 'window(3) + causal()'", "| & - and .T"]),
        ("window(3).size", ["cannot read 'window(3).size'"]),
        ("__import__('os').system('ls')", ["cannot read"]),
        ("8", ["cannot read '8'"]),
        ("window()", ["window: missing a required argument: 'radius'"]),
        ("window(3, width=2)", ["window: got an unexpected keyword argument 'width'"]),
        ("window(-3)", ["window: window() got radius=-3"]),
        ("window(causal())", ["the argument 'causal()' is no number"]),
        ("window(*[3])", ["is no number"]),
        ("nearest(..., 4)", ["nearest()", "holds features", 'edges("name")']),
        ("where(same_parity)", ["where()", "holds a function"]),
        ("from_networkx(graph)", ["holds a graph"]),
        ("edges(...)", ["edges(...)", "holds edges", 'edges("name")']),
        ("causal() | hops(..., 2)", ["hops(...)", "holds edges"]),
    ],
)
def test_unreadable_notation_is_refused(text: str, parts: list[str]) -> None:
    with raises(ValueError, *parts):
        Topology.parse(text)
