"""One notation for code, command line and files: what `repr` writes, `parse` reads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import expanders, joined, listed, make_layout, same_parity

from graphformer.topology import (
    Band,
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

written = st.one_of(
    st.sampled_from(
        [
            complete(),
            causal(),
            self_loops(),
            log_sparse(),
            edges("bond"),
            grid((2,), 0),
            grid((3, 2), 1),
        ]
    ),
    st.builds(window, st.integers(0, 4), st.integers(1, 3)),
    st.builds(global_tokens, st.integers(0, 4)),
    st.builds(strided, st.integers(1, 4)),
    st.builds(hops, st.text(max_size=4), st.integers(1, 3)),
    st.builds(
        Band, st.integers(-5, 5) | st.none(), st.integers(-5, 5) | st.none(), st.integers(1, 3)
    ),
    expanders,
)


@settings(max_examples=60)
@given(joined(written))
def test_what_is_written_reads_back(topology: Topology) -> None:
    assert Topology.parse(repr(topology)) == topology


@pytest.mark.parametrize(
    "text",
    [
        "complete()",
        "window(8) | global_tokens(1)",
        "window(8, dilation=2)",
        "window(0)",
        "causal() & (window(128) | global_tokens(4))",
        "causal() & window(3) | global_tokens(1)",
        "complete() - self_loops() & causal()",
        "complete() - (self_loops() & causal())",
        "complete() - (causal() - self_loops())",
        "window(2) | (window(3) | window(4))",
        "(causal() | log_sparse()).T",
        "log_sparse().T",
        "causal().T & window(3).T",
        "expander(3)",
        "expander(3, seed=7)",
        "grid((14, 14), 1)",
        "grid((8,), 2)",
        'edges("bond") | expander(3) | global_tokens(2)',
        'edges("bond").T - edges("Bindung ä")',
        'hops("bond", 2)',
        "Band(-3, 5)",
        "Band(None, -2, step=2)",
        "Band(-2, 0, skips_virtual=True)",
        "strided(1)",
    ],
)
def test_notation_is_kept(text: str) -> None:
    assert repr(Topology.parse(text)) == text


def test_operators_bind_as_in_python() -> None:
    text = "window(1) | causal() & complete() - self_loops()"
    assert Topology.parse(text) == window(1) | (causal() & (complete() - self_loops()))
    spaced = "\n ( window( 1 )|causal( ) )\n"
    assert Topology.parse(spaced) == window(1) | causal()
    assert Topology.parse("window(radius=2, dilation=3)") == window(2, 3)


def test_a_parsed_topology_is_the_same_set() -> None:
    tokens = make_layout([7, 4])
    text = "causal() & (window(2) | global_tokens(1)) - self_loops()"
    written_out = causal() & ((window(2) | global_tokens(1)) - self_loops())
    assert listed(Topology.parse(text), tokens, tokens) == listed(written_out, tokens, tokens)


def test_what_holds_data_prints() -> None:
    edge_index = torch.tensor([[0], [1]])
    assert repr(edges(edge_index) | self_loops()) == "edges(...) | self_loops()"
    assert repr(nearest(torch.zeros(2, 1), 4)) == "nearest(..., 4)"
    assert repr(hops(edge_index, 3)) == "hops(..., 3)"
    assert repr(where(same_parity)) == "where(same_parity)"
    assert repr(where(lambda pair: pair.distance > 0)) == "where(...)"
    assert repr(from_networkx(__import__("networkx").path_graph(2))) == "edges(...)"
    assert repr(expander(2).T) == "expander(2).T"
    assert repr(strided(2)) == "strided(2)"
