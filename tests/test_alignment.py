"""Alignments are the weights of the model's own attention, from tokens to words."""

from __future__ import annotations

import pytest
import torch
from decoding_cases import HEADS, SCORES, SIZE, VOCABULARY, random_sentences, sharpened

from graphformer.data.vocabulary import train_bpe, train_characters
from graphformer.models.decode import align
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks.translation.alignment import Alignment, of_words, word_of_tokens

TWO = Size(dim=16, heads=HEADS, layers=2, hidden=24)


@torch.no_grad()
def test_weights_are_those_of_the_softmax() -> None:
    model = sharpened(Transformer(VOCABULARY, TWO))
    source, target = random_sentences(5, 2), random_sentences(3, 4)
    seen = {}
    layer = model.decoder[0].cross.layer
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    model(source, target)
    handle.remove()
    memory = model.encode(source)
    queries, keys, _ = layer.project(seen["x"], memory.x)
    found = align(model, source, target)
    assert [tuple(each.shape) for each in found] == [(3, 5), (4, 2)]
    for number, weights in enumerate(found):
        rows = slice(*target.ptr[number : number + 2].tolist())
        columns = slice(*source.ptr[number : number + 2].tolist())
        scores = torch.einsum("qhd,khd->hqk", queries[rows], keys[columns]) * (16 / HEADS) ** -0.5
        torch.testing.assert_close(weights, scores.softmax(-1).mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("score", ["dot", "gaussian", "gatv2", "bahdanau"])
def test_alignments_do_not_depend_on_the_batch(score: str) -> None:
    model = sharpened(Transformer(VOCABULARY, TWO, cross_score=SCORES[score]))
    source, target = random_sentences(5, 2, 7), random_sentences(3, 1, 4)
    found = align(model, source, target, layer=-1)
    for number, weights in enumerate(found):
        one = source.unbatch()[number], target.unbatch()[number]
        (alone,) = align(model, *(type(source)(ids, *rest(ids)) for ids in one), layer=1)
        torch.testing.assert_close(weights, alone, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)).double())


def rest(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = len(ids)
    return torch.tensor([0, size]), torch.arange(size).unsqueeze(1), torch.tensor([size])


def test_alignments_need_a_layer_and_no_dropout() -> None:
    model, tokens = Transformer(VOCABULARY, SIZE).eval(), random_sentences(2)
    with pytest.raises(ValueError, match="layer is 1, and the decoder has 1: write 0 to 0, or -1"):
        align(model, tokens, tokens, layer=1)
    with pytest.raises(ValueError, match=r"is training.*call model\.eval\(\)"):
        align(model.train(), tokens, tokens)


@pytest.mark.parametrize("size", [0, 270])
def test_tokens_are_of_the_words_that_they_are_made_from(size: int) -> None:
    line = " zwei  Hunde,\tspringen über \N{SNOWMAN} Zäune "
    lines = ["zwei zwei Hunde Hunde", line]
    tokenizer = train_bpe(lines, size) if size else train_characters(lines)
    encoding = tokenizer.encode(line)
    words = word_of_tokens(line, encoding)
    found = [each for each in words if each is not None]
    assert found == sorted(found)
    assert set(found) == set(range(6)), "each word has tokens"
    for token, word in zip(encoding.tokens, words, strict=True):
        if size == 0 and token.isspace():
            assert word is None


def test_weights_of_words_are_summed_over_what_is_heard_and_averaged_over_who_hears() -> None:
    tokenizer = train_characters(["ab c"])
    source, target = "ab c", "c ba"
    weights = torch.rand(4, 4)
    encodings = tokenizer.encode(source), tokenizer.encode(target)
    found = of_words((source, encodings[0]), (target, encodings[1]), weights)
    assert found.source == ["ab", "c"]
    assert found.target == ["c", "ba"]
    assert float(found.weights[0, 0]) == pytest.approx(float(weights[0, :2].sum()))
    expected = float((weights[2, 3] + weights[3, 3]) / 2)
    assert float(found.weights[1, 1]) == pytest.approx(expected)


def test_an_alignment_is_written_with_the_source_first() -> None:
    weights = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert str(Alignment(["a", "b"], ["x", "y", "z"], weights)) == "1-0 0-1 1-2"
    assert str(Alignment([], [], torch.zeros(0, 0))) == ""
