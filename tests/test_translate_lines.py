"""Lines that cannot be read, and characters that cannot be translated, are told of in few words."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

from graphformer.data.text_lines import check_is_file
from graphformer.data.vocabulary import train_bpe, train_characters
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks import translate
from graphformer.tasks.translation.attending import Attending
from graphformer.tasks.translation.corpus import read_corpus
from graphformer.tasks.translation.lines import NUM_NAMED, Lines
from graphformer.tasks.translation.settings import (
    Corpus,
    Search,
    Shape,
    Training,
    complete_settings,
)
from graphformer.tasks.translation.task import Task
from graphformer.tasks.translation.translator import Translator
from graphformer.tokens import sequences

SIZE = Size(dim=16, heads=2, layers=1, hidden=8)
# Translators that learned nothing come to no end.
pytestmark = pytest.mark.filterwarnings("ignore:.* cut, having come to no end:UserWarning")


@pytest.mark.parametrize("more", [0, 1, 20])
def test_a_few_lines_that_are_not_utf_8_are_named_and_the_rest_counted(
    more: int, tmp_path: Path
) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"gr\xfcn\n" * (NUM_NAMED + more) + b"blau\n")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = [line for chunk in Lines(file) for line in chunk]
    assert read == [""] * (NUM_NAMED + more) + ["blau"]
    messages = [str(each.message) for each in told]
    named = enumerate(messages[:NUM_NAMED], 1)
    assert all(f"line {at}, byte 3" in each for at, each in named)
    rest = {0: [], 1: ["1 more line is"], 20: ["20 more lines are"]}[more]
    assert messages[NUM_NAMED:] == [f"{file}: {each} not UTF-8, and empty" for each in rest]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_a_pipe_that_is_to_be_read_more_than_once_is_called_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="pipe is no file, which can be read more than"):
        check_is_file(tmp_path / "pipe")


def test_spaces_around_a_line_are_not_unknown() -> None:
    tokenizer = train_characters(["eins", "one"])
    translator = Translator(Transformer(tokenizer.get_vocab_size(), SIZE), tokenizer, "eins one")
    assert translator.unknown_characters(["\teins\u00a0", "x"]) == {"x": 1}


@pytest.mark.parametrize(("joint", "known"), [(True, "abxy"), (False, "ab")])
def test_a_vocabulary_of_the_source_knows_its_characters_alone(
    joint: bool, known: str, tmp_path: Path
) -> None:
    files = tmp_path / "some.de", tmp_path / "some.en"
    for file, words in zip(files, ("ab", "xy"), strict=True):
        lines = [" ".join(words[at >> bit & 1] for bit in range(6)) for at in range(64)]
        file.write_text("\n".join(lines) + "\n", "utf-8")
    corpus = Corpus(source_file=files[0], target_file=files[1])
    training = Training(steps=1, vocabulary=0, vocabulary_joint=joint)
    _, training = complete_settings(corpus, Shape(), training, torch.device("cpu"))
    tokenizer = train_characters(["ab xy"])
    both = tokenizer if joint else (tokenizer, tokenizer)
    text = read_corpus(corpus)
    task = Task(text, both, SIZE, training.course, Attending(), Search(), torch.device("cpu"))
    assert set(task._facts[0]) - {" "} == set(known)


def test_a_picture_that_was_asked_for_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_bpe(["eins one"], 270)
    Translator(Transformer(tokenizer.get_vocab_size(), SIZE), tokenizer).save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        translate.predict(tmp_path, text="eins", plot_alignment=tmp_path / "eins.svg")


@pytest.mark.parametrize("positions", ["sinusoidal", "Learned(20)"])
def test_a_model_of_16_bits_adds_positions_in_them(positions: str) -> None:
    model = Transformer(20, SIZE, positions=positions).bfloat16().eval()
    source = sequences([torch.tensor([4, 5, 6]), torch.tensor([7])])
    assert model(source, source).dtype == torch.bfloat16
