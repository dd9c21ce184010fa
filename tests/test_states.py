"""What a layer goes on from follows its sequence through any search."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphformer.models.decode import beam_search, greedy
from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Size, Transformer
from graphformer.tokens import Tokens, sequences

VOCABULARY, BEGIN, END = 12, 2, 3
SIZE = Size(dim=16, heads=4, layers=2, hidden=24)
CONVOLUTIONS = {"feed_forward": ("convolution(3)", "convolution(4)")}
MOST = 7


@pytest.fixture
def source() -> Tokens:
    return sequences([torch.randint(4, VOCABULARY, (length,)) for length in (5, 1, 3, 8)])


@pytest.fixture(params=["convolutions", "lstm"])
def model(request: pytest.FixtureRequest) -> Any:
    """A model with opinions: its sentences differ, and end at different times."""
    torch.manual_seed(1)
    if request.param == "lstm":
        made: Any = AttentionalLSTM(VOCABULARY, SIZE)
    else:
        made = Transformer(VOCABULARY, SIZE, **CONVOLUTIONS)
    for parameter in made.parameters():
        parameter.data.mul_(2.0)
    return made.double().eval()


@torch.no_grad()
def test_scores_of_a_beam_are_those_of_its_sequences_without_a_cache(
    model: Any, source: Tokens
) -> None:
    found = beam_search(model, source, begin=BEGIN, end=END, beam=4, max_length=MOST)
    lengths = set()
    for ids, hypotheses in zip(source.unbatch(), found, strict=True):
        assert hypotheses
        for hypothesis in hypotheses:
            target = sequences([torch.cat([torch.tensor([BEGIN]), hypothesis.ids])])
            steps = model(sequences([ids]), target).log_softmax(-1)
            following = torch.cat([hypothesis.ids, torch.tensor([END])])[:MOST]
            total = steps[: len(following)].gather(1, following.unsqueeze(1)).sum()
            assert hypothesis.score == pytest.approx(float(total) / len(following), abs=1e-9)
            lengths.add(len(following))
    assert len(lengths) > 1, "the sequences must end at different times"


@torch.no_grad()
def test_a_batch_is_searched_as_each_sentence_alone(model: Any, source: Tokens) -> None:
    settings = {"begin": BEGIN, "end": END, "max_length": MOST}
    together, beams = greedy(model, source, **settings), beam_search(model, source, **settings)
    for number, ids in enumerate(source.unbatch()):
        one = sequences([ids])
        assert torch.equal(together[number], greedy(model, one, **settings)[0])
        (alone,) = beam_search(model, one, **settings)
        assert [each.ids.tolist() for each in beams[number]] == [
            each.ids.tolist() for each in alone
        ]
