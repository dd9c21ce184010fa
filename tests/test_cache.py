"""Decoding with a cache gives what decoding without one gives, whatever the score."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import graphformer as gf
from graphformer.layers import Attention, Block, Cache, ConvFeedForward, FeedForward
from graphformer.models.sequence import LanguageModel, Size, Transformer
from graphformer.tokens import Tokens, sequences

VOCABULARY, HEADS = 23, 4
SIZE = Size(dim=16, heads=HEADS, layers=2, hidden=24, dropout=0.5)
LENGTHS = (7, 4, 1, 9)

SCORES = {
    "dot": "DotProduct()",
    "cosine": f"Cosine({HEADS})",
    "gaussian": "Gaussian(1.5)",
    "mean": "Mean()",
    "additive": f"Additive({HEADS})",
    "gatv2": f"GATv2({HEADS})",
    "bahdanau": f"Bahdanau({HEADS}) + ALiBi({HEADS})",
    "rotary": "Rotary(DotProduct())",
    "alibi": f"DotProduct() + ALiBi({HEADS})",
    "t5": f"DotProduct() + T5Bias({HEADS}, buckets=8, largest=6, causal=True)",
    "rotary cosine alibi": f"Rotary(Cosine({HEADS})) + ALiBi({HEADS})",
}
TOPOLOGIES = [
    "causal()",
    "window(2)",
    "window(1) | global_tokens(1)",
    "strided(3) | self_loops()",
    "log_sparse()",
]


def random_ids(lengths: tuple[int, ...]) -> list[Tensor]:
    return [torch.randint(VOCABULARY, (length,)) for length in lengths]


def in_steps(ids: list[Tensor], bounds: list[int]) -> list[Tokens]:
    """The sequences cut at these positions; some have no token in a step."""
    pairs = zip([0, *bounds], [*bounds, max(map(len, ids))], strict=True)
    return [sequences([one[start:stop] for one in ids]) for start, stop in pairs]


def by_example(steps: list[Tokens], outputs: list[Tensor]) -> list[Tensor]:
    """The rows of each example, those of all steps one after another."""
    parts = [step.with_x(out).unbatch() for step, out in zip(steps, outputs, strict=True)]
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def assert_same(cached: list[Tensor], uncached: list[Tensor]) -> None:
    for one, other in zip(cached, uncached, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bounds", [[1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 8]], ids=["one", "several"])
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@torch.no_grad()
def test_cached_decoding_gives_the_uncached_logits(score: str, bounds: list[int]) -> None:
    model = Transformer(VOCABULARY, SIZE, score=score).double().eval()
    source, ids = sequences(random_ids((5, 3, 6, 2))), random_ids(LENGTHS)
    memory, target = model.encode(source), sequences(ids)
    cache = Cache(len(ids), capacity=2)
    steps = in_steps(ids, bounds)
    logits = [model.logits(model.decode(step, memory, cache=cache)) for step in steps]
    uncached = target.with_x(model(source, target)).unbatch()
    assert_same(by_example(steps, logits), uncached)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("score", ["rotary", "t5", "gatv2"])
@torch.no_grad()
def test_cached_prompts_go_on_by_any_causal_topology(score: str, topology: str) -> None:
    model = LanguageModel(VOCABULARY, SIZE, score=SCORES[score], positions=None, topology=topology)
    model = model.double().eval()
    ids = random_ids(LENGTHS)
    cache = Cache(len(ids), capacity=3)
    steps = in_steps(ids, [2, 3, 4, 7])
    logits = [model.logits(model.decode(step, cache=cache)) for step in steps]
    tokens = sequences(ids)
    assert_same(by_example(steps, logits), tokens.with_x(model(tokens)).unbatch())


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@torch.no_grad()
def test_causal_convolutions_go_on_from_the_last_tokens(kernel: int) -> None:
    model = LanguageModel(VOCABULARY, SIZE, feed_forward=f"convolution({kernel})")
    model = model.double().eval()
    ids = random_ids(LENGTHS)
    tokens = sequences(ids)
    uncached = tokens.with_x(model(tokens)).unbatch()
    for bounds in ([1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 7]):
        cache = Cache(len(ids), capacity=3)
        steps = in_steps(ids, bounds)
        logits = [model.logits(model.decode(step, cache=cache)) for step in steps]
        assert_same(by_example(steps, logits), uncached)


@torch.no_grad()
def test_what_a_layer_keeps_follows_a_selection() -> None:
    model = LanguageModel(VOCABULARY, SIZE, feed_forward="convolution(3)").double().eval()
    first, second, cache = random_ids((3, 2)), random_ids((1, 1, 1)), Cache(2)
    model.decode(sequences(first), cache=cache)
    cache.select(torch.tensor([1, 0, 1]))
    logits = model.logits(model.decode(sequences(second), cache=cache))
    for row, old in enumerate((1, 0, 1)):
        whole = model(sequences([torch.cat([first[old], second[row]])]))
        torch.testing.assert_close(logits[row], whole[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("score", ["Rotary(DotProduct())", f"GATv2({HEADS})", "Kernel()"])
@torch.no_grad()
def test_fewer_heads_of_keys_and_values_are_cached_as_they_are(score: str, kv_heads: int) -> None:
    normalize = "sum" if score == "Kernel()" else "softmax"
    made = gf.Score.parse(score)
    layer = Attention(16, HEADS, made, kv_heads=kv_heads, normalize=normalize).double()
    x, cache = torch.randn(6, 16).double(), Cache(1, capacity=1)
    rows = []
    for row in x:
        new = cache.extend(sequences([row.unsqueeze(0)]))
        graph = gf.causal().bind(new, cache.tokens)
        rows.append(layer(new.x, graph, cache=cache))
    uncached = layer(x, gf.causal().bind(sequences([x])))
    torch.testing.assert_close(torch.cat(rows), uncached, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_beams_are_queries_of_one_source_and_follow_a_selection() -> None:
    model = Transformer(VOCABULARY, SIZE, score=SCORES["rotary"]).double().eval()
    source = random_ids((5, 3))
    memory, cache = model.encode(sequences(source)), Cache(4, capacity=2)
    first = random_ids((2, 2, 2, 2))
    model.decode(sequences(first), memory, cache=cache)
    # Of either source the second beam twice, then in the other order.
    cache.select(torch.tensor([1, 1, 3, 2]))
    second = random_ids((3, 3, 3, 3))
    logits = model.logits(model.decode(sequences(second), memory, cache=cache))
    whole = [torch.cat([first[old], new]) for old, new in zip((1, 1, 3, 2), second, strict=True)]
    repeated = sequences([source[0], source[0], source[1], source[1]])
    uncached = model(repeated, sequences(whole)).view(4, 5, VOCABULARY)[:, 2:]
    torch.testing.assert_close(logits.view(4, 3, VOCABULARY), uncached, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_examples_and_their_memory_are_dropped() -> None:
    model = Transformer(VOCABULARY, SIZE).double().eval()
    source, target = random_ids((5, 3, 4)), random_ids((2, 4, 3))
    memory, cache = model.encode(sequences(source)), Cache(3)
    model.decode(sequences(target), memory, cache=cache)
    cache.select(torch.tensor([2]))
    cache.select_memory(torch.arange(8, 12))
    kept = sequences([memory.x[8:12]])
    new = random_ids((1,))
    logits = model.logits(model.decode(sequences(new), kept, cache=cache))
    uncached = model(sequences(source[2:]), sequences([torch.cat([target[2], new[0]])]))
    torch.testing.assert_close(logits[0], uncached[-1], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_cache_works_under_autocast() -> None:
    model = LanguageModel(VOCABULARY, SIZE).eval()
    ids, cache = random_ids((6,)), Cache(1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = [
            model.logits(model.decode(sequences([one]), cache=cache)) for one in ids[0].split(1)
        ]
        uncached = model(sequences(ids))
    torch.testing.assert_close(torch.cat(logits), uncached, rtol=0.05, atol=0.05)


@torch.no_grad()
def test_slots_grow_and_stand_where_no_causal_rule_reaches() -> None:
    cache = Cache(2, capacity=2)
    new = cache.extend(sequences([torch.zeros(4, 1), torch.zeros(1, 1)]))
    assert new.at[:, 0].tolist() == [0, 1, 2, 3, 0]
    assert cache.capacity == 4
    cache = Cache(2, capacity=4)
    cache.extend(sequences([torch.zeros(3, 1), torch.zeros(1, 1)]))
    new = cache.extend(sequences([torch.zeros(0, 1), torch.zeros(2, 1)]))
    assert new.at[:, 0].tolist() == [1, 2]
    assert cache.lengths.tolist() == [3, 3]
    graph = gf.causal().bind(new, cache.tokens)
    assert graph.edge_index.tolist() == [[4, 5, 4, 5, 6], [0, 0, 1, 1, 1]]


# ---- refusals ----


def test_cache_refuses_gradients() -> None:
    with pytest.raises(ValueError, match=r"keeps no gradients; decode under torch\.no_grad\(\)"):
        Cache(1).extend(sequences([torch.zeros(1, 4)]))


@torch.no_grad()
def test_cache_refuses_other_examples_and_virtual_tokens() -> None:
    new = sequences([torch.zeros(1, 4)])
    with pytest.raises(ValueError, match=r"has 3 examples, the new tokens 1; .*cache\.select"):
        Cache(3).extend(new)
    with pytest.raises(ValueError, match=r"2 virtual tokens .*write new\.without_virtual\(\)"):
        Cache(1).extend(new.with_virtual(2))


@torch.no_grad()
def test_cache_refuses_another_memory() -> None:
    model = Transformer(VOCABULARY, SIZE).eval()
    memory, other = (model.encode(sequences(random_ids(sizes))) for sizes in ((5, 3), (5, 4)))
    cache, target = Cache(2), sequences(random_ids((1, 1)))
    model.decode(target, memory, cache=cache)
    with pytest.raises(ValueError, match="keys of a memory of 8 tokens, and this one has 9; make"):
        model.decode(target, other, cache=cache)


@torch.no_grad()
def test_cache_refuses_parents_of_other_examples() -> None:
    cache = Cache(2)
    cache.extend(sequences([torch.zeros(1, 4)] * 2))
    with pytest.raises(ValueError, match=r"parents has shape .*: give \[2, sequence\]"):
        cache.fork(torch.tensor([[0, 0]]))


@torch.no_grad()
def test_scores_of_degrees_have_no_cache() -> None:
    layer = Attention(8, 1, gf.SymmetricDegree(), normalize="none")
    cache = Cache(1)
    new = cache.extend(sequences([torch.zeros(1, 8)]))
    with pytest.raises(ValueError, match=r"degree of a key changes .*decode without one"):
        layer(new.x, gf.causal().bind(new, cache.tokens), cache=cache)


@torch.no_grad()
def test_convolutions_of_what_follows_have_no_cache() -> None:
    block = Block(8, Attention(8, 2), ConvFeedForward(8, 8))
    cache = Cache(1)
    new = cache.extend(sequences([torch.zeros(1, 8)]))
    with pytest.raises(ValueError, match=r"has no tokens that follow.*causal=True"):
        block(new.x, gf.causal().bind(new, cache.tokens), cache=cache)


@pytest.mark.parametrize("topology", ["causal() | expander(3)", 'edges("bond")'])
def test_decoders_refuse_what_depends_on_the_size_of_an_example(topology: str) -> None:
    with pytest.raises(ValueError, match=r"a decoder cannot go on by .*write rules of positions"):
        Transformer(VOCABULARY, SIZE, decoder_topology=topology)
    with pytest.raises(ValueError, match="known for whole examples only"):
        LanguageModel(VOCABULARY, SIZE, topology=topology)


@torch.no_grad()
def test_targets_that_share_sources_unevenly_are_refused() -> None:
    model = Transformer(VOCABULARY, SIZE).eval()
    memory = model.encode(sequences(random_ids((2, 2))))
    with pytest.raises(ValueError, match="3 target sequences cannot share 2 sources evenly"):
        model.decode(sequences(random_ids((1, 1, 1))), memory)


@torch.no_grad()
def test_block_keeps_what_it_needs_of_a_memory_from_the_first_step() -> None:
    block = Block(8, Attention(8, 2), FeedForward(8, 8), cross=Attention(8, 2)).double()
    memory = sequences([torch.randn(3, 8).double()])
    x = torch.randn(2, 8).double()
    tokens = sequences([x])
    whole = block(x, gf.causal().bind(tokens), memory.x, gf.complete().bind(tokens, memory))
    cache, rows = Cache(1), []
    for row in x:
        new = cache.extend(sequences([row.unsqueeze(0)]))
        graph, cross = gf.causal().bind(new, cache.tokens), gf.complete().bind(new, memory)
        rows.append(block(new.x, graph, memory.x, cross, cache))
    torch.testing.assert_close(torch.cat(rows), whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_tokens_and_graph_of_a_step_must_fit() -> None:
    """Kernels would write behind the end of what is too small."""
    layer, source = Attention(8, 2), sequences([torch.zeros(5, 1)] * 2)
    prompt, cache = gf.causal().bind(source), Cache(2)
    cache.extend(sequences([torch.zeros(1, 8)] * 2))
    with pytest.raises(ValueError, match="has 2 tokens, and its graph was bound to 10: take the"):
        layer(torch.randn(2, 8), prompt, cache=cache)


@torch.no_grad()
def test_a_memory_and_its_graph_must_fit() -> None:
    layer, cache, x = Attention(8, 2), Cache(1), torch.randn(1, 8)
    one = sequences([torch.zeros(1, 1)])
    for size in (3, 9):
        cross = gf.complete().bind(one, keys=sequences([torch.zeros(size, 1)]))
        if size == 3:
            layer(x, cross, torch.randn(size, 8), cache)
            continue
        with pytest.raises(ValueError, match="has 3 tokens, and its graph was bound to 9"):
            layer(x, cross, torch.randn(size, 8), cache)
