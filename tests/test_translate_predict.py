"""`graphformer translate predict`: lines as they come, several translations, alignments."""

from __future__ import annotations

import gzip
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graphformer.data.vocabulary import END, train_bpe
from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks import translate
from graphformer.tasks.translation import lines as reading
from graphformer.tasks.translation.alignment import align_words
from graphformer.tasks.translation.corpus import encode_sources
from graphformer.tasks.translation.decoding import best_of, decode, find, limits_of
from graphformer.tasks.translation.lines import Lines, count_lines, whole_lines
from graphformer.tasks.translation.settings import Search
from graphformer.tasks.translation.translator import Translator
from graphformer.tasks.translation.wanted import Sample, Wanted
from graphformer.tokens import sequences

# Translators that learned next to nothing come to no end.
pytestmark = pytest.mark.filterwarnings("ignore:.* cut, having come to no end:UserWarning")

SOURCES = ["eins zwei", "", "drei vier fünf", "eins", "zwei drei"]
SIZE = Size(dim=16, heads=2, layers=2, hidden=32, dropout=0.1)


@pytest.fixture(scope="module")
def translator() -> Translator:
    """An untrained one, which says anything, but always the same."""
    torch.manual_seed(5)
    tokenizer = train_bpe(["eins zwei drei vier fünf one two three four five"] * 3, 290)
    model = Transformer(tokenizer.get_vocab_size(), SIZE)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return Translator(model, tokenizer)


@pytest.fixture
def folder(translator: Translator, tmp_path: Path) -> Path:
    translator.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accelerator is gpu, and there is none"):
        translate.predict(tmp_path / "nothing", text="eins", accelerator="gpu")


def test_a_translator_is_moved_to_the_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved: list[torch.device] = []
    monkeypatch.setattr(Transformer, "to", lambda _, device: moved.append(device))
    translate.predict(folder, text="eins", accelerator="cpu")
    assert moved == [torch.device("cpu")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.txt"
    file.write_text("\n".join(SOURCES) + "\n", "utf-8")
    return file


def test_n_best_are_written_a_line_each(folder: Path, source: Path, tmp_path: Path) -> None:
    written, search = tmp_path / "written.txt", Search(beam=3)
    best = translate.predict(
        folder, input_file=source, output_file=written, search=search, wanted=Wanted(n_best=3)
    )
    rows = [line.split("\t") for line in written.read_text("utf-8").split("\n")[:-1]]
    assert [int(row[0]) for row in rows] == [1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert next(row[2] for row in rows if row[0] == "3") == best[2].replace("\t", " ")
    scores = [float(row[1]) for row in rows if row[0] == "3"]
    assert scores == sorted(scores, reverse=True)
    assert best == translate.predict(folder, input_file=source, search=search)
    with pytest.raises(ValueError, match="n_best is 4, and a beam of 3 finds 3: write --beam 4"):
        translate.predict(folder, text="eins", search=search, wanted=Wanted(n_best=4))


def test_decoding_in_bfloat16_computes_in_it(
    translator: Translator, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    logits = Transformer.logits

    def watched(self: Transformer, hidden: Tensor) -> Tensor:
        out = logits(self, hidden)
        seen.add(out.dtype)
        return out

    monkeypatch.setattr(Transformer, "logits", watched)
    precisely = translator.translate(["eins zwei"], beam=3)
    assert seen == {torch.float32}
    seen.clear()
    found = translate.predict(
        folder, input_file=source, search=Search(beam=3, decoding_precision="bf16-mixed")
    )
    assert seen == {torch.bfloat16}
    assert len(found) == len(SOURCES)
    assert translator.translate(["eins zwei"], beam=3) == precisely


def test_samples_depend_on_seed_and_line_alone(
    folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(sample=Sample(temperature=1.0, seed=4))
    drawn = translate.predict(folder, input_file=source, wanted=wanted)
    # Lines that come one by one, as from a slow pipe.
    monkeypatch.setattr(reading, "AT_ONCE", 4)
    assert translate.predict(folder, input_file=source, wanted=wanted) == drawn
    other = Wanted(sample=Sample(temperature=1.0, seed=5))
    assert translate.predict(folder, input_file=source, wanted=other) != drawn
    assert translate.predict(folder, input_file=source) != drawn
    few = Wanted(sample=Sample(temperature=1.0, top_k=1, seed=4))
    likeliest = translate.predict(folder, input_file=source, search=Search(beam=1))
    assert translate.predict(folder, input_file=source, wanted=few) == likeliest
    narrow = Wanted(sample=Sample(temperature=1.0, top_p=1e-9, seed=4))
    assert translate.predict(folder, input_file=source, wanted=narrow) == likeliest
    with pytest.raises(ValueError, match=r"write --sample\.temperature 1 to draw translations"):
        Sample(top_k=3)
    for search in (Search(beam=3), Search(length_penalty=0.5)):
        with pytest.raises(ValueError, match=r"with sample\.temperature .* are drawn, not"):
            translate.predict(folder, input_file=source, wanted=few, search=search)


def test_alignments_are_written_behind_the_translation(
    folder: Path, source: Path, translator: Translator, tmp_path: Path
) -> None:
    written = tmp_path / "written.txt"
    best = translate.predict(
        folder, input_file=source, output_file=written, wanted=Wanted(alignments=True)
    )
    rows = [line.split("\t") for line in written.read_text("utf-8").split("\n")[:-1]]
    assert all(len(row) == 2 for row in rows)
    expected = [
        str(align_words(translator, [one], [found])[0])
        for one, found in zip(SOURCES, best, strict=True)
    ]
    assert [row[1] for row in rows] == expected
    assert rows[1][1] == ""
    for line, found, row in zip(SOURCES, best, rows, strict=True):
        pairs = [each.split("-") for each in row[1].split()]
        assert {int(one) for one, _ in pairs} <= set(range(len(line.split())))
        if line:
            assert [int(other) for _, other in pairs] == list(range(len(found.split())))


def test_an_alignment_is_drawn(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "alignment.svg"
    translate.predict(folder, text="eins zwei", plot_alignment=picture)
    drawn = picture.read_text("utf-8")
    assert ">eins<" in drawn
    assert ">zwei<" in drawn
    with pytest.raises(ValueError, match="plot_alignment shows one line: write it with --text"):
        translate.predict(folder, plot_alignment=picture)


def test_an_lstm_aligns_too(tmp_path: Path) -> None:
    tokenizer = train_bpe(["eins one"], 270)
    model = AttentionalLSTM(tokenizer.get_vocab_size(), SIZE)
    translator = Translator(model, tokenizer)
    alone, together = (
        align_words(translator, each, each) for each in (["eins"], ["one", "eins eins"])
    )
    assert str(alone[0]) == "0-0"
    assert together[1].weights.shape == (2, 2)
    # The end of the line has its share too.
    assert float(together[1].weights.sum(1).max()) < 1.0


def test_lines_that_are_too_long_are_left_out_by_number(folder: Path, source: Path) -> None:
    source.write_text("eins\n" + "eins " * 300 + "\nzwei\n", "utf-8")
    with pytest.warns(UserWarning, match=r"source\.txt, line 2 has \d+ tokens and stays untransl"):
        found = translate.predict(folder, input_file=source, wanted=Wanted(longest=100))
    assert found[1] == ""
    source.write_text(("eins " * 300 + "\nzwei\n") * 3, "utf-8")
    with pytest.warns(UserWarning, match=r"line 1 has \d+ tokens and 2 others with up to") as told:
        translate.predict(folder, input_file=source, wanted=Wanted(longest=100))
    assert sum("untranslated" in str(each.message) for each in told) == 1
    assert found[0]
    assert found[2]


def test_long_lines_stop_no_test_either(translator: Translator) -> None:
    lines = ["eins", "eins " * 1200]
    with pytest.warns(UserWarning, match=r"the test set, line 2 has 2,\d+ tokens and stays"):
        found = best_of(translator, lines, Search(beam=1), "the test set")
    assert found == [*translator.translate(["eins"], beam=1), ""]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No translation comes to an end by itself."""
    logits = Transformer.logits
    monkeypatch.setattr(
        Transformer,
        "logits",
        lambda self, hidden: logits(self, hidden).index_fill(1, torch.tensor([END]), -torch.inf),
    )


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("growth", [2.0, 3.5])
def test_translations_are_as_long_as_the_translator_lets_them(
    growth: float, beam: int, translator: Translator, tmp_path: Path
) -> None:
    Translator(translator.model, translator.tokenizer, growth=growth).save_pretrained(tmp_path)
    loaded = Translator.from_pretrained(tmp_path)
    source = sequences(encode_sources(loaded.source_tokenizer, ["eins zwei", "eins"]))
    limits = limits_of(loaded, source)
    assert limits.tolist() == [math.ceil(growth * length) + 20 for length in source.lengths]
    loaded.model.eval()
    found = decode(loaded, source, Search(beam=beam), Wanted(), [0, 1], limits)
    assert [len(one.ids) for one, *_ in found] == limits.tolist()


@pytest.mark.usefixtures("endless")
def test_translations_that_are_cut_are_warned_of_once(folder: Path, source: Path) -> None:
    greedy = Search(beam=1)
    with pytest.warns(UserWarning, match="source.txt, line 1 and others: 4 translations are cut"):
        translate.predict(folder, input_file=source, search=greedy)
    with pytest.warns(UserWarning, match="the text, line 1: a translation is cut") as seen:
        translate.predict(folder, text="eins", search=greedy)
    assert len(seen) == 1


def test_spaces_around_a_line_are_not_read(translator: Translator) -> None:
    assert translator.translate([" eins zwei  "]) == translator.translate(["eins zwei"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_pipes_are_read_and_written_as_they_are(folder: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    for pipe in (there, back):
        os.mkfifo(pipe)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(there.write_bytes, b"eins\nzwei\n")
        written = pool.submit(back.read_text, "utf-8")
        assert translate.predict(folder, input_file=there, output_file=back) == []
        found = [translate.predict(folder, text=line)[0] for line in ("eins", "zwei")]
        assert written.result().split("\n") == [*found, ""]
    assert back.is_fifo()


def test_what_a_link_leads_to_takes_the_translations(folder: Path, tmp_path: Path) -> None:
    link, file = tmp_path / "link.txt", tmp_path / "file.txt"
    file.touch()
    link.symlink_to(file)
    (found,) = translate.predict(folder, text="eins", output_file=link)
    assert link.is_symlink()
    assert file.read_text("utf-8") == f"{found}\n"


def test_text_that_cannot_be_translated_or_drawn_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="text is not UTF-8 at character 3"):
        translate.predict(folder, text="hu\udcffnd")
    with pytest.raises(ValueError, match="text has several lines: write them to a file"):
        translate.predict(folder, text="eins\nzwei")
    with pytest.raises(ValueError, match=r"plot_alignment is a\.foo: write a name in \.svg or"):
        translate.predict(folder, text="eins", plot_alignment=Path("a.foo"))
    with pytest.raises(ValueError, match="text is empty, and plot_alignment has nothing to show"):
        translate.predict(folder, text=" ", plot_alignment=Path("a.svg"))


def test_a_line_that_is_not_utf_8_stays_empty_and_the_others_do_not(
    folder: Path, source: Path
) -> None:
    source.write_bytes(b"\xef\xbb\xbfeins\r\nf\xfcnf\nzwei")
    with pytest.warns(UserWarning, match=r"source\.txt, line 2, byte 2: not UTF-8 \(0xfc\)"):
        found = translate.predict(folder, input_file=source)
    assert found[1] == ""
    assert found[0] == translate.predict(folder, text="eins")[0]
    assert found[2] == translate.predict(folder, text="zwei")[0]


def test_files_are_read_as_they_are_needed(source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "source.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    for path in (source, packed):
        assert [line for chunk in Lines(path) for line in chunk] == SOURCES
    assert Lines(source).count == count_lines(source) == len(SOURCES)
    assert Lines(packed).count is None
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"source\.gz is truncated or not gzip"):
        list(Lines(packed))
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        Lines(tmp_path / "missing")
    source.write_bytes(b"")
    with pytest.raises(ValueError, match=r"source\.txt is empty: expected UTF-8 text"):
        Lines(source)
    packed.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"source\.gz is empty: expected UTF-8 text"):
        list(Lines(packed))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_lines_are_whole_however_much_is_read_at_once(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", size)
    content = b"a\n\nbcd\n\nef\r\ng"
    found = [line for chunk in whole_lines(io.BytesIO(content)) for line in chunk]
    assert found == content.split(b"\n")


def test_a_pipe_is_translated_before_it_ends(folder: Path) -> None:
    command = [sys.executable, "-m", "graphformer", "translate", "predict"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--checkpoint", str(folder), "--beam", "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"eins\n")
        process.stdin.flush()
        first = process.stdout.readline()
        assert first.endswith(b"\n"), "written though the pipe is still open"
        process.stdin.write(b"zwei\n")
        process.stdin.close()
        assert process.stdout.readline().endswith(b"\n")
        assert process.stdout.read() == b""
        assert process.wait() == 0


def test_progress_is_counted_in_lines(translator: Translator) -> None:
    counted: list[int] = []
    find(translator, SOURCES, Search(beam=1), report=counted.append)
    assert sum(counted) == len(SOURCES)
    assert counted[0] == 1, "empty lines are done at once"


def test_a_bar_is_shown_where_somebody_watches(
    folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphformer.tasks.translation import prediction

    shown: list[object] = []

    class Bar:
        def __init__(self, **settings: object) -> None:
            shown.append(settings["total"])

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            shown.append(count)

    monkeypatch.setattr(prediction, "tqdm", Bar)
    monkeypatch.setattr(prediction, "somebody_watches", lambda: True)
    translate.predict(folder, input_file=source, output_file=tmp_path / "written")
    assert shown[0] == len(SOURCES)
    assert sum(shown[1:]) == len(SOURCES)
    shown.clear()
    translate.predict(folder, text="eins")
    assert not shown, "of one line there is nothing to count"


def test_what_would_end_a_line_is_written_as_a_space(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Decoding:
        def decode_batch(self, ids: list[list[int]]) -> Iterator[str]:
            return iter([" a\nb\rc "] * len(ids))

    monkeypatch.setattr(translator, "target_tokenizer", Decoding())
    assert find(translator, ["eins"], Search(beam=1))[0][0].text == "a b c"
