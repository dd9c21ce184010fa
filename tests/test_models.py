"""Models of sequences are settings of the layers, and decoding finds the likeliest."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import graphformer as gf
from graphformer.layers import Cache
from graphformer.models.decode import Hypothesis, beam_search, greedy
from graphformer.models.sequence import LanguageModel, Size, Transformer
from graphformer.positions import Learned
from graphformer.tokens import Tokens, sequences

VOCABULARY, BEGIN, END = 12, 2, 3
SIZE = Size(dim=16, heads=4, layers=1, hidden=24, dropout=0.5)


def random_sentences(*lengths: int) -> Tokens:
    return sequences([torch.randint(4, VOCABULARY, (length,)) for length in lengths])


@pytest.fixture
def source() -> Tokens:
    torch.manual_seed(0)
    return random_sentences(5, 1, 3, 8, 2, 6)


@pytest.fixture
def translator() -> Transformer:
    """A model with opinions: some sentences end at once, others never."""
    torch.manual_seed(2)
    model = Transformer(VOCABULARY, SIZE, score="Rotary(DotProduct())").double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.5)
    return model


def examples_of(tokens: Tokens) -> list[Tokens]:
    return [sequences([ids]) for ids in tokens.unbatch()]


# ---- decoding ----


def most_likely(model: Transformer, source: Tokens, max_length: int) -> list[int]:
    """Greedy decoding of one sentence without a cache, as one would write it first."""
    ids: list[int] = []
    while len(ids) < max_length:
        logits = model(source, sequences([torch.tensor([BEGIN, *ids])]))
        best = int(logits[-1].argmax())
        if best == END:
            break
        ids.append(best)
    return ids


def searched(
    model: Transformer, source: Tokens, beam: int, penalty: float, max_length: int
) -> list[tuple[list[int], float]]:
    """Beam search of one sentence without a cache, as one would write it first."""
    under_way: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float]] = []
    for length in range(1, max_length + 1):
        candidates = []
        for ids, total in under_way:
            logits = model(source, sequences([torch.tensor([BEGIN, *ids])]))
            steps = logits[-1].log_softmax(-1).tolist()
            candidates += [([*ids, new], total + step) for new, step in enumerate(steps)]
        candidates = sorted(candidates, key=lambda one: -one[1])[: 2 * beam]
        finished += [
            (ids[:-1], total / length**penalty)
            for ids, total in candidates[:beam]
            if ids[-1] == END
        ]
        under_way = [one for one in candidates if one[0][-1] != END][:beam]
        highest = max((score for _, score in finished), default=0.0)
        if len(finished) >= beam and highest >= under_way[0][1] / length**penalty:
            break
    else:
        finished = finished or [(ids, total / max_length**penalty) for ids, total in under_way]
    return sorted(finished, key=lambda one: -one[1])[:beam]


@torch.no_grad()
def test_greedy_is_the_likeliest_token_after_another(
    translator: Transformer, source: Tokens
) -> None:
    found = greedy(translator, source, begin=BEGIN, end=END, max_length=9)
    expected = [most_likely(translator, one, 9) for one in examples_of(source)]
    assert [ids.tolist() for ids in found] == expected
    lengths = {len(ids) for ids in expected}
    assert 9 in lengths
    assert min(lengths) < 9, "the sentences must end at different times"


@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (3, 1.0), (3, 0.0), (6, 0.6)])
@torch.no_grad()
def test_beam_search_is_the_search_as_it_is_told(
    beam: int, penalty: float, translator: Transformer, source: Tokens
) -> None:
    found = beam_search(
        translator, source, begin=BEGIN, end=END, beam=beam, length_penalty=penalty, max_length=7
    )
    for hypotheses, one in zip(found, examples_of(source), strict=True):
        expected = searched(translator, one, beam, penalty, 7)
        assert [hypothesis.ids.tolist() for hypothesis in hypotheses] == [
            ids for ids, _ in expected
        ]
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == pytest.approx([score for _, score in expected], abs=1e-9)


def test_beam_of_one_is_greedy(translator: Transformer, source: Tokens) -> None:
    settings = {"begin": BEGIN, "end": END, "max_length": 9}
    found = beam_search(translator, source, beam=1, **settings)
    expected = greedy(translator, source, **settings)
    assert [best[0].ids.tolist() for best in found] == [ids.tolist() for ids in expected]


class Sure:
    """Counts from BEGIN to the last id, and ends; anything else, an end too, is most unlikely."""

    training = False

    def start(self, source: Tokens, begin: int) -> tuple[Tokens, None]:
        return sequences([torch.tensor([begin])] * source.num_examples), None

    def decode(self, tokens: Tokens, memory: None, cache: Cache) -> Tensor:
        cache.extend(tokens)
        return tokens.x

    def logits(self, hidden: Tensor) -> Tensor:
        table = torch.zeros(VOCABULARY, VOCABULARY)
        table[:, END] = 2.0
        following = [*range(VOCABULARY), END]
        following.remove(END)
        table[following[:-1], following[1:]] = 14.0
        return table[hidden]


def test_beam_waits_for_the_likeliest_sequence_though_others_have_ended(source: Tokens) -> None:
    settings = {"begin": BEGIN, "end": END}
    found = beam_search(Sure(), source, beam=3, **settings)
    (counted,) = greedy(Sure(), source, **settings)[:1]
    assert counted.tolist() == [*range(4, VOCABULARY)]
    for hypotheses in found:
        assert len(hypotheses) == 3
        assert torch.equal(hypotheses[0].ids, counted)
        assert hypotheses[0].score == pytest.approx(0.0, abs=1e-4)
        assert hypotheses[1].score < -0.5


def test_a_batch_is_decoded_as_each_sentence_alone(translator: Transformer, source: Tokens) -> None:
    limits = torch.tensor([3, 9, 5, 2, 9, 9])
    settings = {"begin": BEGIN, "end": END}
    together = greedy(translator, source, max_length=limits, **settings)
    beams = beam_search(translator, source, max_length=limits, beam=4, **settings)
    for number, one in enumerate(examples_of(source)):
        limit = int(limits[number])
        (alone,) = greedy(translator, one, max_length=limit, **settings)
        assert torch.equal(together[number], alone)
        assert len(alone) <= limit
        (own,) = beam_search(translator, one, max_length=limit, beam=4, **settings)
        assert_same_hypotheses(beams[number], own)


def assert_same_hypotheses(some: list[Hypothesis], others: list[Hypothesis]) -> None:
    assert [one.ids.tolist() for one in some] == [one.ids.tolist() for one in others]
    scores = [one.score for one in others]
    assert [one.score for one in some] == pytest.approx(scores, abs=1e-9)


@torch.no_grad()
def test_language_model_goes_on_from_prompts_of_any_length() -> None:
    torch.manual_seed(1)
    model = LanguageModel(VOCABULARY, SIZE).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(1.7)
    prompts = random_sentences(3, 1, 6)
    found = greedy(model, prompts, begin=BEGIN, end=END, max_length=5)
    for prompt, ids in zip(prompts.unbatch(), found, strict=True):
        whole = torch.cat([prompt, ids])
        predicted = model(sequences([whole])).argmax(-1)[len(prompt) - 1 :]
        assert torch.equal(predicted[: len(ids)], ids)
        assert len(ids) == 5 or int(predicted[len(ids)]) == END
    beams = beam_search(model, prompts, begin=BEGIN, end=END, beam=1, max_length=5)
    assert [best[0].ids.tolist() for best in beams] == [ids.tolist() for ids in found]


def test_decoding_refuses_what_it_cannot_do(translator: Transformer, source: Tokens) -> None:
    settings = {"begin": BEGIN, "end": END}
    with pytest.raises(ValueError, match="beam of 7 needs a vocabulary of at least 14 ids"):
        beam_search(translator, source, beam=7, **settings)
    with pytest.raises(ValueError, match="max_length is at least 1 token, it is 0"):
        greedy(translator, source, max_length=0, **settings)
    prompts = sequences([torch.tensor([4]), torch.tensor([], dtype=torch.int64)])
    with pytest.raises(ValueError, match="example 1 has no token to go on from"):
        greedy(LanguageModel(VOCABULARY, SIZE).eval(), prompts, **settings)
    with pytest.raises(ValueError, match=r"the model is training.*call model\.eval\(\)"):
        greedy(translator.train(), source, **settings)


# ---- models of sequences ----


def test_one_vocabulary_is_one_table_that_is_saved_once(tmp_path: Path, source: Tokens) -> None:
    model = Transformer(VOCABULARY, SIZE, positions=Learned(16, SIZE.dim)).eval()
    tables = [name for name, one in model.state_dict().items() if one.shape == (VOCABULARY, 16)]
    assert model.output_weight is model.source.weight
    assert len({model.state_dict()[name].data_ptr() for name in tables}) == 1
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = Transformer(VOCABULARY, SIZE, positions=Learned(16, SIZE.dim)).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.output_weight is other.target.weight
    assert torch.equal(other(source, source), model(source, source))
    assert torch.equal(copy.deepcopy(model)(source, source), model(source, source))


def test_two_vocabularies_are_three_tables(source: Tokens) -> None:
    model = Transformer((VOCABULARY, 9), SIZE)
    target = sequences([torch.randint(9, (2,)) for _ in range(6)])
    assert model(source, target).shape == (12, 9)
    tables = {id(one) for one in (model.source.weight, model.target.weight, model.output_weight)}
    assert len(tables) == 3


def test_logits_of_hidden_states_are_those_of_the_model(source: Tokens) -> None:
    model = Transformer(VOCABULARY, SIZE).eval()
    hidden = model.hidden(source, source)
    assert hidden.shape == (source.num_tokens, SIZE.dim)
    torch.testing.assert_close(hidden @ model.output_weight.T, model(source, source))


def test_graphs_made_ahead_are_those_made_inside(source: Tokens) -> None:
    settings = {"encoder_topology": "window(2)", "decoder_topology": "window(1)"}
    model = Transformer(VOCABULARY, SIZE, **settings).eval()
    graphs = model.bind(source, source)
    assert repr(graphs.encoder.topology) == "window(2)"
    torch.testing.assert_close(model(source, source, graphs), model(source, source))


@pytest.mark.parametrize("feed_forward", ["linear()", "convolution(3)"])
def test_decoder_hears_nothing_that_follows(feed_forward: str, source: Tokens) -> None:
    settings = {"decoder_topology": "window(2)", "feed_forward": ("linear()", feed_forward)}
    model = Transformer(VOCABULARY, SIZE, **settings).eval()
    target = random_sentences(4, 4, 4, 4, 4, 4)
    before = model(source, target).view(6, 4, -1)
    changed = target.with_x(torch.where(target.at[:, 0] == 3, 4, target.x))
    after = model(source, changed).view(6, 4, -1)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3], before[:, 3])


def test_encoder_and_decoder_may_have_scores_of_their_own() -> None:
    model = Transformer(VOCABULARY, SIZE, score=("Gaussian()", gf.Cosine(4)))
    kinds = [type(block.attention.layer.score) for block in [*model.encoder, *model.decoder]]
    assert kinds == [gf.Gaussian, gf.Cosine]
    assert type(model.decoder[0].cross.layer.score) is gf.Cosine, "the decoder's where left out"


def test_layers_have_scores_of_their_own() -> None:
    given = gf.Cosine(4)
    model = Transformer(VOCABULARY, Size(dim=16, layers=2), score=given, cross_score="DotProduct()")
    scores = [module for module in model.modules() if isinstance(module, gf.Cosine)]
    assert len(scores) == 4
    assert len({id(score.scale) for score in [given, *scores]}) == 5


@pytest.mark.parametrize("norm_first", [True, False])
def test_fresh_logits_are_of_the_size_of_one(norm_first: bool) -> None:
    size = Size(dim=64, layers=2, dropout=0.0, norm_first=norm_first)
    model, tokens = Transformer(500, size), sequences([torch.randint(500, (40,))] * 4)
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens, tokens), tokens.x.roll(1))
    assert float(loss) == pytest.approx(torch.tensor(500.0).log().item(), rel=0.25)
    assert 0.5 < float(model.source(tokens).detach().std()) < 2


@pytest.mark.parametrize("feed_forward", ["linear()", "convolution(3)"])
def test_each_dropout_is_where_its_setting_says(feed_forward: str) -> None:
    size = Size(dim=16, layers=1, dropout=0.3, attention_dropout=0.2, activation_dropout=0.1)
    model = Transformer(VOCABULARY, size, feed_forward=feed_forward)
    for block in [*model.encoder, *model.decoder]:
        assert block.attention.layer.dropout == 0.2
        assert block.feed_forward.layer.dropout.p == 0.1
        assert block.attention.dropout.p == block.feed_forward.dropout.p == 0.3
    assert model.source.dropout.p == 0.3


def test_sequence_models_refuse_what_they_cannot_read(source: Tokens) -> None:
    with pytest.raises(ValueError, match="unknown positions='rotary'; write 'sinusoidal'"):
        Transformer(VOCABULARY, SIZE, positions="rotary")
    with pytest.raises(
        ValueError, match=r"feed_forward 'conv\(3\)': write 'linear\(\)', or a conv"
    ):
        LanguageModel(VOCABULARY, SIZE, feed_forward="conv(3)")
    model = LanguageModel(VOCABULARY, SIZE)
    with pytest.raises(ValueError, match="hold the id 12, and the vocabulary has 12 ids, 0 to 11"):
        model(source.with_x(source.x + VOCABULARY - int(source.x.max())))
    with pytest.raises(ValueError, match=r"takes ids, integers \[token\]; it got torch.float32"):
        model(sequences([torch.zeros(3, 4)]))
