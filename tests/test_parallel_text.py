"""Lines of large files are read by their number; what is left out of a text is said."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphformer.data import line_index
from graphformer.data.cleaning import (
    COPY,
    DUPLICATE,
    NO_CHARACTERS,
    Dropped,
    drop,
    find_flaws,
    find_unfit,
    key,
)
from graphformer.data.line_index import IndexedLines
from graphformer.data.parallel import KeptPairs, PairedLines, choose, line_number, parallel
from graphformer.data.text_lines import read_lines
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.loader import Loader

SOURCE = b"\xef\xbb\xbfeins\r\n\n drei \nf\xf6nf\nsechs\xe2\x80\xa8!\nsieben"
TARGET = b"one\ntwo\nthree\nfive\nsix\n\n"
REPORT = (
    "3 pairs from 6 lines; dropped 1 with an empty source (line 2), "
    "1 that is not UTF-8 in text.de (line 4), 1 with an empty target (line 6)"
)
EXPECTED = [("eins", "one"), ("drei", "three"), ("sechs\u2028!", "six")]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "text.de", tmp_path / "text.en"
    for path, content in zip(paths, (SOURCE, TARGET), strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_read_is_left_out_and_said(files: tuple[Path, Path], stream: bool) -> None:
    text = parallel(*files, stream=stream)
    assert text.report == REPORT
    assert text.pairs == EXPECTED
    assert text.pairs[1:] == EXPECTED[1:]
    assert text.pairs[-1] == EXPECTED[-1]
    assert [line_number(text.pairs, index) for index in range(3)] == [1, 3, 5]
    assert isinstance(text.pairs.lines, PairedLines) == stream
    chosen = choose(text.pairs, np.array([2, 0]))
    assert chosen == [EXPECTED[2], EXPECTED[0]]
    assert line_number(chosen, 0) == 5
    assert choose(EXPECTED, np.array([2, 0])) == chosen
    assert line_number(EXPECTED, 2) == 3


LINE = st.text(st.sampled_from("aä\u2028\r \t\U0001f600"), max_size=6)


@given(lines=st.lists(LINE, min_size=1), last=st.booleans(), block=st.integers(1, 9))
def test_indexed_lines_are_those_that_are_read_whole(
    lines: list[str], last: bool, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(("\n".join(["x", *lines]) + "\n" * last).encode())
    whole = read_lines(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_index, "BLOCK", block)
        for indexed in (IndexedLines(path), IndexedLines(path, path.parent)):
            assert [line.decode() for line in indexed] == whole
            assert [indexed[index].decode() for index in range(len(indexed))] == whole
            assert indexed[::-1] == [line.encode() for line in reversed(whole)]
            with pytest.raises(IndexError, match=f"has {len(whole)} lines, and none of number"):
                indexed[len(whole)]


def test_an_index_is_kept_until_the_text_is_another(files: tuple[Path, Path]) -> None:
    folder = files[0].parent / "index"
    path = files[1]
    first = list(IndexedLines(path, folder))
    (kept,) = folder.iterdir()
    made = kept.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_index, "read_places", lambda path: pytest.fail("is read again"))
        assert list(IndexedLines(path, folder)) == first
    for damaged in (made[:-8], made[:-3], b"", b"other" * 20):
        kept.write_bytes(damaged)
        assert IndexedLines(path, folder)[4] == b"six"
        assert kept.read_bytes() == made
    path.write_bytes(TARGET.replace(b"two", b"zwei"))
    assert [IndexedLines(path, folder)[index] for index in (1, 2)] == [b"zwei", b"three"]
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"\nzwei", b"zwei\n"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert IndexedLines(path, folder)[0] == b"onezwei", "of the same size, at another time"


def test_an_index_that_cannot_be_written_leaves_nothing(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    folder = files[0].parent / "index"
    monkeypatch.setattr("graphformer.files.os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        IndexedLines(files[0], folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("kept", [False, True])
def test_streamed_pairs_are_read_by_any_process(files: tuple[Path, Path], kept: bool) -> None:
    folder = files[0].parent / "index" if kept else None
    pairs = parallel(*files, stream=True, index_folder=folder).pairs
    assert pairs[0] == EXPECTED[0], "the file is open here already"
    sent = pickle.dumps(pairs)
    assert (len(sent) < 2**12) or not kept
    assert pickle.loads(sent) == EXPECTED
    order = BatchOrder.of_size(len(pairs), 2, shuffle=False)
    loader = Loader(pairs, list, order, num_workers=1)
    assert [pair for batch in loader for pair in batch] == EXPECTED
    loader.close()


def test_a_spawned_process_reads_streamed_pairs(files: tuple[Path, Path]) -> None:
    pairs = parallel(*files, stream=True, index_folder=files[0].parent / "index").pairs
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(list, (pairs,)) == EXPECTED


def test_packed_text_is_read_whole_with_a_warning(tmp_path: Path) -> None:
    files = tmp_path / "text.de.gz", tmp_path / "text.en"
    files[0].write_bytes(gzip.compress(SOURCE))
    files[1].write_bytes(TARGET)
    with pytest.warns(UserWarning, match=r"text\.de\.gz cannot be read line by line, so that"):
        text = parallel(*files, stream=True)
    assert text.pairs == EXPECTED
    assert not isinstance(text.pairs.lines, PairedLines)


FLAWED = {
    ("a", "b"): None,
    ("c", "c"): COPY,
    ("d\x07", "e"): NO_CHARACTERS,
    ("f", "g\ufffd"): NO_CHARACTERS,
    ("h\x96", "i"): NO_CHARACTERS,
    ("j\tk\u2028l\u00a0", "m\U0001f600\ue000"): None,
    ("n", "b"): None,
    ("a", "o"): None,
}


def test_flaws_are_found_and_counted_with_their_first_line() -> None:
    pairs = [*FLAWED, ("n", "b"), ("c", "c")]
    found = find_flaws(pairs)
    expected = [*FLAWED.values(), DUPLICATE, COPY]
    for reason in (COPY, NO_CHARACTERS, DUPLICATE):
        assert found[reason].tolist() == [each == reason for each in expected], reason
    kept, dropped = drop(found, lambda index: 10 + index)
    assert [pairs[index] for index in kept] == [each for each in FLAWED if FLAWED[each] is None]
    assert str(dropped) == (
        "dropped 2 whose target is a copy of the source (first: line 11), "
        "3 with characters that are no text (first: line 12), 1 that stood there before (line 18)"
    )
    assert dropped.total == 6


def test_copies_and_duplicates_can_be_kept() -> None:
    pairs = [("a", "a"), ("b", "c"), ("b", "c")]
    assert drop(find_flaws(pairs, keep_copies=True), int)[0].tolist() == [0, 1]
    assert drop(find_flaws(pairs, keep_duplicates=True), int)[0].tolist() == [1, 2]
    assert str(drop(find_flaws(pairs, True, True), int)[1]) == "dropped none"


def test_pairs_too_long_or_too_unequal_are_found() -> None:
    lengths = np.array([[5, 5], [11, 9], [9, 11], [10, 10], [2, 9], [2, 8], [0, 2], [0, 3]])
    found = find_unfit(lengths, 10, 3.0)
    too_long, unequal = found.values()
    assert np.flatnonzero(too_long).tolist() == [1, 2]
    assert np.flatnonzero(unequal).tolist() == [4, 7], "an end is counted to both"
    _, dropped = drop(found, lambda index: index)
    assert str(dropped) == (
        "dropped 2 of more than 10 tokens (first: line 1), "
        "2 with one side more than 3 times longer (first: line 4)"
    )
    assert not any(each.any() for each in find_unfit(lengths, None, None).values())


def test_a_key_is_the_same_in_every_process() -> None:
    assert key("eins") == 0x9738808503EBD215
    assert key("eins") != key("zwei")


def test_what_is_dropped_is_added_up() -> None:
    dropped = Dropped()
    for line in (7, 3):
        dropped.add("in vain", line, count=1000)
    assert str(dropped) == "dropped 2,000 in vain (first: line 3)"


def test_kept_pairs_are_a_sequence() -> None:
    pairs = KeptPairs(EXPECTED, np.array([2, 1]))
    assert len(pairs) == 2
    assert list(pairs) == [EXPECTED[2], EXPECTED[1]]
    assert EXPECTED[1] in pairs
    assert pairs != EXPECTED
