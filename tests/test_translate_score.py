"""`graphformer translate score`: what it says of itself, and what it refuses beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphformer.data.vocabulary import train_characters
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks import translate
from graphformer.tasks.translation.settings import Search
from graphformer.tasks.translation.translator import Translator

# Translators that learned nothing come to no end.
pytestmark = pytest.mark.filterwarnings("ignore:.* cut, having come to no end:UserWarning")

LINES = ["eins zwei", "drei", "eins drei"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A translator, and source and target as files."""
    tokenizer = train_characters(LINES)
    model = Transformer(tokenizer.get_vocab_size(), Size(dim=16, heads=2, layers=1, hidden=8))
    Translator(model, tokenizer).save_pretrained(tmp_path / "model")
    for name in ("source", "target"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    return tmp_path


def test_it_says_what_it_decodes_in(folder: Path) -> None:
    files = {"target_file": folder / "target", "source_file": folder / "source"}
    search = Search(decoding_precision="bf16-mixed")
    translate.score(**files, checkpoint=folder / "model", search=search, out=folder / "scored")
    kept = json.loads((folder / "scored" / "metrics.json").read_text("utf-8"))
    assert kept["machine"]["precision"] == "bf16-mixed"
    assert "beam 5, length penalty 1, decoded in bf16-mixed" in kept["protocol"]


@pytest.mark.parametrize("name", ["hypothesis_file", "source_file", "other_file"])
def test_files_are_compared_before_anything_is_translated(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = folder / "short.txt"
    short.write_text("eins\nzwei\n", "utf-8")
    given = {name: short}
    if name != "hypothesis_file":
        given = {"checkpoint": folder / "model", "source_file": folder / "source"} | given
    monkeypatch.setattr(translate, "Prediction", None)
    message = "short.txt has 2 lines and .*target has 3: .* line 3 has no partner"
    with pytest.raises(ValueError, match=message):
        translate.score(folder / "target", **given)


@pytest.mark.parametrize("name", ["settings.yaml", "history.csv", "config.json"])
def test_the_figures_of_a_training_are_not_overwritten(name: str, folder: Path) -> None:
    (folder / name).write_text("beam: 5\n", "utf-8")
    with pytest.raises(ValueError, match="which has the figures of a training: write a folder"):
        translate.score(folder / "target", folder / "source", out=folder)


def test_a_search_without_a_checkpoint_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="both --hypothesis_file and --length_penalty"):
        translate.score(folder / "target", folder / "source", search=Search(length_penalty=0.5))


def test_translations_that_are_all_empty_have_a_score(folder: Path) -> None:
    (folder / "found").write_text("\n" * len(LINES), "utf-8")
    quality = translate.score(folder / "target", folder / "found")
    assert quality.figures == {"bleu": 0.0, "chrf": 0.0, "exact_match": 0.0}


def test_an_accelerator_that_nothing_computes_on_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="both --hypothesis_file and --accelerator"):
        translate.score(folder / "target", folder / "source", accelerator="cpu")


def test_a_line_that_is_not_utf_8_counts_as_an_empty_one(folder: Path) -> None:
    (folder / "source").write_bytes(b"eins zwei\nf\xfcnf\neins drei\n")
    with pytest.warns(UserWarning, match="source, line 2, byte 2: not UTF-8"):
        quality = translate.score(
            folder / "target", checkpoint=folder / "model", source_file=folder / "source"
        )
    assert quality.figures["exact_match"] == 0
