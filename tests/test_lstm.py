"""The attentional LSTM: torch's LSTMs, our attention, and the same decoding as any decoder's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import graphformer as gf
from graphformer import layers
from graphformer.graph import TokenGraph
from graphformer.layers import Cache
from graphformer.models.decode import Decoder, beam_search, greedy
from graphformer.models.packing import time_major
from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Size
from graphformer.tokens import Tokens, sequences

VOCABULARY, BEGIN, END = 12, 2, 3
SIZE = Size(dim=16, heads=4, layers=2, hidden=24, dropout=0.5)
LENGTHS = (5, 1, 3, 8)


def random_ids(lengths: tuple[int, ...]) -> list[Tensor]:
    return [torch.randint(4, VOCABULARY, (length,)) for length in lengths]


@pytest.fixture
def model() -> AttentionalLSTM:
    """A model with opinions: its sentences differ, and end at different times."""
    torch.manual_seed(3)
    made = AttentionalLSTM(VOCABULARY, SIZE).double().eval()
    for parameter in made.parameters():
        parameter.data.mul_(3.0)
    return made


@pytest.fixture
def source() -> Tokens:
    return sequences(random_ids(LENGTHS))


@pytest.mark.parametrize("lengths", [(3,), (2, 2), (1, 5, 3, 5)])
def test_flat_tokens_are_packed_as_torch_packs_them(lengths: tuple[int, ...]) -> None:
    ids = random_ids(lengths)
    order, sizes = time_major(sequences(ids))
    packed = torch.nn.utils.rnn.pack_sequence(ids, enforce_sorted=False)
    assert torch.equal(torch.cat(ids)[order], packed.data)
    assert torch.equal(sizes, packed.batch_sizes)


@torch.no_grad()
def test_the_encoder_is_the_lstm_of_torch(model: AttentionalLSTM, source: Tokens) -> None:
    memory = model.encode(source)
    for ids, read in zip(source.unbatch(), memory.unbatch(), strict=True):
        expected, _ = model.reader(model.source(sequences([ids])))
        torch.testing.assert_close(read, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_step_is_that_of_bahdanau_and_others(model: AttentionalLSTM, source: Tokens) -> None:
    ids = source.unbatch()[0]
    memory = model.encode(sequences([ids]))
    backward = memory.x[0, 12:]
    states = torch.tanh(model.first(backward)).view(2, 24)
    query = model.query(states[1]).view(4, 6)
    keys = model.key(memory.x).view(-1, 4, 6)
    scores = (torch.tanh(query + keys) * model.score.weight).sum(-1)
    values = memory.x.view(-1, 4, 6)
    context = (scores.softmax(0).unsqueeze(-1) * values).sum(0).flatten()
    word = model.target(sequences([torch.tensor([BEGIN])]))[0]
    first, _ = model.writer[0](torch.cat([word, context]), (states[0], torch.zeros(24).double()))
    second, _ = model.writer[1](first, (states[1], torch.zeros(24).double()))
    expected = torch.tanh(model.output(torch.cat([word, context, second])))
    found = model.decode(sequences([torch.tensor([BEGIN])]), memory)
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_graph_is_bound_once_for_all_tokens(
    model: AttentionalLSTM, source: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[TokenGraph] = []
    original = TokenGraph.bind

    def spy(*arguments: Any, **named: Any) -> TokenGraph:
        bound.append(original(*arguments, **named))
        return bound[-1]

    monkeypatch.setattr(TokenGraph, "bind", spy)
    model(source, sequences(random_ids((7, 2, 1, 4))))
    (graph,) = bound
    again = model(source, sequences(random_ids((7, 2, 1, 4))), graph)
    assert len(again) == 14
    assert len(bound) == 1, "what was made ahead is not made again"
    assert graph.queries.lengths.tolist() == [1, 1, 1, 1], "one query an example"
    assert graph.num_edges == source.num_tokens


@torch.no_grad()
def test_decoding_binds_once_and_keeps_no_token(
    model: AttentionalLSTM, source: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    original = layers.cache.one_query_each

    def spy(memory: Tokens, count: int) -> TokenGraph:
        made.append(count)
        return original(memory, count)

    monkeypatch.setattr(layers.cache, "one_query_each", spy)
    memory, cache = model.encode(source), Cache(4, capacity=2)
    for _ in range(70):
        model.decode(sequences(random_ids((1, 1, 1, 1))), memory, cache=cache)
    assert made == [1]
    assert cache.capacity == 2
    assert cache.lengths.tolist() == [70] * 4
    cache.fork(torch.tensor([[0, 0, 0]] * 4))
    for _ in range(2):
        model.decode(sequences(random_ids((1,) * 12)), memory, cache=cache)
    assert made == [1, 3], "of each hypothesis a query"


@torch.no_grad()
def test_an_example_alone_is_as_in_a_batch(model: AttentionalLSTM, source: Tokens) -> None:
    target = random_ids((2, 7, 0, 4))
    tokens = sequences(target)
    together = tokens.with_x(model(source, tokens)).unbatch()
    for ids, own, rows in zip(source.unbatch(), target, together, strict=True):
        alone = model(sequences([ids]), sequences([own]))
        torch.testing.assert_close(rows, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bounds", [[1, 2, 3, 4, 5], [2, 3, 6]], ids=["one", "several"])
@pytest.mark.parametrize("score", [None, "DotProduct()", "Cosine(4) + ALiBi(4)"])
@torch.no_grad()
def test_cached_decoding_gives_the_uncached_logits(
    bounds: list[int], score: str | None, source: Tokens
) -> None:
    model = AttentionalLSTM(VOCABULARY, SIZE, cross_score=score).double().eval()
    ids, memory, cache = random_ids((7, 4, 1, 6)), model.encode(source), Cache(4, capacity=2)
    pairs = list(zip([0, *bounds], [*bounds, 7], strict=True))
    steps = [sequences([one[start:stop] for one in ids]) for start, stop in pairs]
    rows = [
        step.with_x(model.logits(model.decode(step, memory, cache=cache))).unbatch()
        for step in steps
    ]
    tokens = sequences(ids)
    uncached = tokens.with_x(model(source, tokens)).unbatch()
    for cached, expected in zip(zip(*rows, strict=True), uncached, strict=True):
        torch.testing.assert_close(torch.cat(cached), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_beams_are_queries_of_one_source_and_follow_a_selection(model: AttentionalLSTM) -> None:
    source, first, second = random_ids((5, 3)), random_ids((2, 2, 2, 2)), random_ids((3, 3, 3, 3))
    memory, cache = model.encode(sequences(source)), Cache(4)
    model.decode(sequences(first), memory, cache=cache)
    cache.select(torch.tensor([1, 1, 3, 2]))
    logits = model.logits(model.decode(sequences(second), memory, cache=cache)).view(4, 3, -1)
    whole = [torch.cat([first[old], new]) for old, new in zip((1, 1, 3, 2), second, strict=True)]
    repeated = sequences([source[0], source[0], source[1], source[1]])
    uncached = model(repeated, sequences(whole)).view(4, 5, -1)[:, 2:]
    torch.testing.assert_close(logits, uncached, rtol=1e-9, atol=1e-9)


def test_alignments_are_the_weights_of_each_step(model: AttentionalLSTM, source: Tokens) -> None:
    target = sequences(random_ids((3, 1, 2, 5)))
    found = model.align(source, target)
    sizes = zip(target.lengths.tolist(), LENGTHS, strict=True)
    assert [tuple(each.shape) for each in found] == list(sizes)
    for each in found:
        torch.testing.assert_close(each.sum(1), torch.ones(len(each)).double())
    memory = model.encode(sequences([source.unbatch()[0]]))
    states = torch.tanh(model.first(memory.x[0, 12:])).view(2, 24)
    added = model.query(states[1]).view(4, 6) + model.key(memory.x).view(-1, 4, 6)
    expected = (torch.tanh(added) * model.score.weight).sum(-1).softmax(0).mean(1)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"the model is training.*call model\.eval\(\)"):
        model.train().align(source, target)


@torch.no_grad()
def test_it_is_searched_as_any_decoder(model: AttentionalLSTM, source: Tokens) -> None:
    assert isinstance(model, Decoder)
    settings = {"begin": BEGIN, "end": END, "max_length": 9}
    found = greedy(model, source, **settings)
    beams = beam_search(model, source, beam=3, **settings)
    ones = beam_search(model, source, beam=1, **settings)
    assert len({tuple(ids.tolist()) for ids in found}) > 1, "the sentences must differ"
    for number, ids in enumerate(source.unbatch()):
        assert torch.equal(found[number], ones[number][0].ids)
        likeliest: list[int] = []
        while len(likeliest) < 9:
            target = sequences([torch.tensor([BEGIN, *likeliest])])
            best = int(model(sequences([ids]), target)[-1].argmax())
            if best == END:
                break
            likeliest.append(best)
        assert found[number].tolist() == likeliest
        (alone,) = beam_search(model, sequences([ids]), beam=3, **settings)
        assert [one.ids.tolist() for one in beams[number]] == [one.ids.tolist() for one in alone]


def test_it_learns_to_turn_sentences_around() -> None:
    model = AttentionalLSTM(8, Size(dim=24, heads=2, layers=1, hidden=32, dropout=0.0))
    ids = [torch.tensor([4, 5, 6, 7]), torch.tensor([7, 4]), torch.tensor([5, 4, 7])]
    source = sequences([torch.cat([one, torch.tensor([END])]) for one in ids])
    target = sequences([torch.cat([torch.tensor([BEGIN]), one.flip(0)]) for one in ids])
    following = torch.cat([torch.cat([one.flip(0), torch.tensor([END])]) for one in ids])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(40):
        loss = F.cross_entropy(model(source, target), following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert float(loss.detach()) < 0.2
    found = greedy(model.eval(), source, begin=BEGIN, end=END, max_length=6)
    assert [one.tolist() for one in found] == [one.flip(0).tolist() for one in ids]


def test_dropout_is_drawn_anew_and_not_in_evaluation(source: Tokens) -> None:
    model = AttentionalLSTM(VOCABULARY, SIZE)
    assert not torch.equal(model(source, source), model(source, source))
    model.eval()
    assert torch.equal(model(source, source), model(source, source))


def test_what_it_cannot_read_is_refused(source: Tokens) -> None:
    model = AttentionalLSTM(VOCABULARY, SIZE)
    empty = sequences([torch.tensor([4]), torch.tensor([], dtype=torch.int64)])
    with pytest.raises(ValueError, match="example 1 of the source has no token"):
        model(empty, empty)
    with pytest.raises(ValueError, match="hidden is 22, which two directions and 4 heads"):
        AttentionalLSTM(VOCABULARY, Size(dim=16, heads=4, hidden=22))
    with pytest.raises(ValueError, match="3 target sequences cannot share 4 sources evenly"):
        model.decode(sequences(random_ids((1, 1, 1))), model.encode(source))
    assert isinstance(model.score, gf.Bahdanau)
