"""Slots of a cache are used again: of what no query hears, and of hypotheses that were left."""

from __future__ import annotations

import importlib

import pytest
import torch
from decoding_cases import (
    BEGIN,
    ENDS,
    SCORES,
    SIZE,
    TOPOLOGIES,
    VOCABULARY,
    make_translator,
    random_sentences,
    sharpened,
)
from hypothesis import given
from hypothesis import strategies as st

import graphformer as gf
from graphformer.layers import Cache
from graphformer.models.decode import beam_search, greedy
from graphformer.models.decode.state import State
from graphformer.models.sequence import LanguageModel, Size
from graphformer.models.stack import causal_topology
from graphformer.tokens import Tokens, sequences
from graphformer.topology.look_back import may_be_heard

RULES = st.sampled_from(
    [
        "window(3)",
        "window(2, dilation=3)",
        "strided(4)",
        "log_sparse()",
        "global_tokens(2)",
        "self_loops()",
        "complete()",
        "Band(-6, -2)",
        "log_sparse() & window(9)",
    ]
)
LENGTH = 24


@given(RULES, RULES, st.sampled_from("|&-"), st.integers(0, LENGTH - 8))
def test_what_may_be_heard_no_more_is_not(left: str, right: str, symbol: str, query: int) -> None:
    topology = causal_topology(f"({left}) {symbol} ({right})")
    tokens = sequences([torch.zeros(LENGTH, 1)])
    edges = topology.bind(tokens).edge_index
    heard = set(edges[0][edges[1] >= query].tolist())
    found = may_be_heard(topology, torch.arange(LENGTH).unsqueeze(0), torch.tensor([query]))
    if found is not None:
        assert heard <= set(found[0].nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("notation", "kept"),
    [
        ("window(3)", [7, 8, 9]),
        ("window(1) | global_tokens(2)", [0, 1, 9]),
        ("window(2, dilation=2)", [6, 7, 8, 9]),
        ("self_loops()", []),
        ("window(9) & window(1) | global_tokens(1)", [0, 9]),
    ],
)
def test_what_cannot_be_heard_is_told(notation: str, kept: list[int]) -> None:
    topology = causal_topology(notation)
    found = may_be_heard(topology, torch.arange(10).unsqueeze(0), torch.tensor([10]))
    assert found is not None
    assert found[0].nonzero().flatten().tolist() == kept


@pytest.mark.parametrize("notation", ["causal()", "strided(3)", "window(2) | strided(5)"])
def test_what_is_heard_for_ever_is_kept(notation: str) -> None:
    topology = causal_topology(notation)
    assert may_be_heard(topology, torch.arange(5).unsqueeze(0), torch.tensor([5])) is None
    assert (
        may_be_heard(
            gf.where(lambda pair: pair.distance > -2), torch.zeros(1, 1).long(), torch.tensor([9])
        )
        is None
    )


@pytest.mark.parametrize(
    ("topology", "most"), [("window(3)", 4), ("window(1) | global_tokens(2)", 4)]
)
@torch.no_grad()
def test_a_window_needs_the_same_memory_however_long_it_goes_on(topology: str, most: int) -> None:
    score = SCORES["rotary"]
    model = LanguageModel(VOCABULARY, SIZE, score=score, positions=None, topology=topology)
    sharpened(model)
    ids, cache = torch.randint(VOCABULARY, (70,)), Cache(1, capacity=1)
    rows = [model.decode(sequences([one]), cache=cache) for one in ids.split(1)]
    assert cache.capacity == most
    torch.testing.assert_close(
        torch.cat(rows), model.decode(sequences([ids])), rtol=1e-9, atol=1e-9
    )


@torch.no_grad()
def test_sequences_of_an_example_go_on_from_what_they_were_forked_from() -> None:
    model = make_translator("rotary", "global tokens")
    source = random_sentences(5, 3)
    memory, cache = model.encode(source), Cache(2, capacity=2)
    steps = [[[BEGIN]] * 2, [[4, 5, 6], [7, 8, 9]], [[10, 4, 5], [6, 7, 8]], [[5, 5], [9, 4]]]
    parents = [None, [[0, 0, 0], [0, 0, 0]], [[2, 0, 2], [1, 1, 0]], [[1, 2], [0, 2]]]
    whole: list[list[list[int]]] = [[[]], [[]]]
    for ids, forked in zip(steps, parents, strict=True):
        if forked is not None:
            cache.fork(torch.tensor(forked))
            whole = [[rows[at] for at in each] for rows, each in zip(whole, forked, strict=True)]
        whole = [
            [[*row, new] for row, new in zip(rows, each, strict=True)]
            for rows, each in zip(whole, ids, strict=True)
        ]
        new = sequences([torch.tensor([one]) for each in ids for one in each])
        hidden = model.decode(new, memory, cache=cache)
        count = len(ids[0])
        repeated = sequences([one for one in source.unbatch() for _ in range(count)])
        target = sequences([torch.tensor(row) for rows in whole for row in rows])
        expected = model.hidden(repeated, target)[target.ptr[1:] - 1]
        torch.testing.assert_close(hidden, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("topology", ["causal()", "window(2)"])
@torch.no_grad()
def test_what_hypotheses_have_in_common_is_kept_once(
    topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_translator()
    model.decoder_topology = causal_topology(topology)
    seen: list[Cache] = []
    original = State.go_on

    def look(self: State, *arguments: object) -> None:
        original(self, *arguments)
        seen.append(self.cache)

    monkeypatch.setattr(State, "go_on", look)
    beam_search(model, random_sentences(4, 4), beam=4, max_length=60, begin=BEGIN, end=-1)
    filled = seen[-1].capacity
    # As many sequences by themselves would need 4 x 60 slots.
    assert filled < (240 if topology == "causal()" else 40)


@torch.no_grad()
def test_the_graph_of_a_memory_serves_all_steps() -> None:
    model, source = make_translator("rotary"), random_sentences(5, 3)
    memory, cache = model.encode(source), Cache(2)
    graphs = []
    for _ in range(3):
        new = cache.extend(sequences([torch.tensor([4])] * 2))
        graphs.append(cache.bind_memory(new, memory))
        assert graphs[-1].queries.at.tolist() == new.at.tolist()
    assert graphs[0] is graphs[1] is graphs[2]
    longer = cache.extend(sequences([torch.tensor([4, 5])] * 2))
    assert cache.bind_memory(longer, memory) is not graphs[0]


@torch.no_grad()
def test_sequences_of_an_example_go_on_side_by_side() -> None:
    cache = Cache(2)
    cache.extend(tokens_of([1, 2]))
    cache.fork(torch.tensor([[0, 0], [0, 0]]))
    with pytest.raises(
        ValueError, match=r"have \[\[1, 2\], \[1, 1\]\] new tokens; give all of one"
    ):
        cache.extend(tokens_of([1, 2, 1, 1]))
    with pytest.raises(ValueError, match=r"2 examples of 2 sequences, the new tokens 3; .*fork"):
        cache.extend(tokens_of([1, 1, 1]))


def tokens_of(lengths: list[int]) -> Tokens:
    return sequences([torch.zeros(length, 1) for length in lengths])


@pytest.mark.parametrize("topology", ["window(2)", "window(1) | global_tokens(1)"])
def test_long_prompts_are_gone_on_from_by_windows(topology: str) -> None:
    model = LanguageModel(VOCABULARY, SIZE, topology=topology)
    sharpened(model)
    prompts = random_sentences(40, 3, 17)
    found = greedy(model, prompts, max_length=5, **ENDS)
    for prompt, ids in zip(prompts.unbatch(), found, strict=True):
        predicted = model(sequences([torch.cat([prompt, ids])])).argmax(-1)[len(prompt) - 1 :]
        assert torch.equal(predicted[: len(ids)], ids)


def test_every_topology_is_causal_in_a_decoder() -> None:
    tokens = sequences([torch.zeros(9, 1)])
    for notation in TOPOLOGIES.values():
        edges = causal_topology(notation).bind(tokens).edge_index
        assert bool((edges[0] <= edges[1]).all())


@torch.no_grad()
def test_layers_are_planned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = importlib.import_module("graphformer.attend")
    planned: list[object] = []
    original = operator._new_plan
    monkeypatch.setattr(
        operator, "_new_plan", lambda *given: planned.append(given) or original(*given)
    )
    model = LanguageModel(VOCABULARY, Size(dim=16, heads=4, layers=3), score="Cosine(4)").eval()
    tokens = random_sentences(3, 5)
    found = model(tokens)
    assert len(planned) == 1
    scales = [block.attention.layer.score.scale for block in model.blocks]
    scales[2].mul_(3.0)
    assert not torch.allclose(model(tokens), found), "each has weights of its own"
