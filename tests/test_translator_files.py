"""A translator's folder: what `fit` leaves, the command line and Python read alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graphformer.data.vocabulary import train_bpe, train_characters
from graphformer.models.pretrained import CONFIG
from graphformer.models.sequence import LanguageModel, Size, Transformer
from graphformer.tasks import translate
from graphformer.tasks.translation.settings import Search
from graphformer.tasks.translation.translator import JOINT, SEPARATE, Translator

GERMAN, ENGLISH = ["eins zwei", "drei", "zwei drei vier"], ["one two", "three", "two three four"]
SIZE = Size(dim=16, heads=2, layers=1, hidden=24, dropout=0.1)


@pytest.fixture
def joint() -> Translator:
    tokenizer = train_characters(GERMAN + ENGLISH)
    return Translator(Transformer(tokenizer.get_vocab_size(), SIZE), tokenizer, "abcdefghijnrsvwz ")


@pytest.fixture
def separate() -> Translator:
    tokenizers = train_bpe(GERMAN, 262), train_characters(ENGLISH)
    sizes = tokenizers[0].get_vocab_size(), tokenizers[1].get_vocab_size()
    return Translator(Transformer(sizes, SIZE), tokenizers)


@pytest.mark.filterwarnings("ignore:.* cut, having come to no end:UserWarning")
@pytest.mark.parametrize("name", ["joint", "separate"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_translator_comes_back_with_its_vocabularies(
    name: str, kind: type, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    translator: Translator = request.getfixturevalue(name)
    translator.save_pretrained(kind(tmp_path))
    files = {JOINT} if name == "joint" else set(SEPARATE)
    assert {each.name for each in tmp_path.iterdir()} == files | {CONFIG, "model.safetensors"}
    loaded = Translator.from_pretrained(kind(tmp_path))
    assert loaded.characters == translator.characters
    for beam in (1, 3):
        assert loaded.translate(GERMAN, beam=beam) == translator.translate(GERMAN, beam=beam)
    found = translate.predict(tmp_path, text=GERMAN[0], search=Search(beam=3))
    assert found == translator.translate(GERMAN[:1], beam=3)


def test_the_model_alone_is_read_from_the_same_folder(joint: Translator, tmp_path: Path) -> None:
    joint.save_pretrained(tmp_path)
    model = Transformer.from_pretrained(tmp_path)
    state = joint.model.state_dict()
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize("name", ["joint", "separate"])
def test_damaged_and_missing_vocabularies_are_refused_by_name(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.getfixturevalue(name).save_pretrained(tmp_path)
    file = tmp_path / (JOINT if name == "joint" else SEPARATE[1])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{file.name} is not as it was saved.*truncated"):
        Translator.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks {file.name}"):
        Translator.from_pretrained(tmp_path)


def test_a_model_without_a_vocabulary_is_no_translator(joint: Translator, tmp_path: Path) -> None:
    joint.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model without tokenizer\.json .*: save it as a"):
        Translator.from_pretrained(tmp_path)
    LanguageModel(9, SIZE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a LanguageModel, which translates nothing"):
        Translator.from_pretrained(tmp_path)


def test_vocabulary_and_model_must_fit(joint: Translator, tmp_path: Path) -> None:
    Translator(Transformer(9, SIZE), joint.tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has a vocabulary of \d+ ids, and a model for 9"):
        Translator.from_pretrained(tmp_path)


def test_other_versions_are_refused(joint: Translator, tmp_path: Path) -> None:
    joint.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    (tmp_path / CONFIG).write_text(json.dumps(config | {"format": 2}), "utf-8")
    with pytest.raises(ValueError, match=r"has format 2, written by graphformer .* reads format 1"):
        translate.predict(tmp_path, text="eins")
