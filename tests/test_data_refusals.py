"""What cannot be trained on is refused before any training, by file and line."""

from __future__ import annotations

import gzip
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphformer.data import planetoid as planetoid_module
from graphformer.data import published_files
from graphformer.data.dates import dates
from graphformer.data.digits import digits
from graphformer.data.graph_data import GraphData, check_graph
from graphformer.data.heterophilous import heterophilous
from graphformer.data.multi30k import multi30k
from graphformer.data.parallel import parallel
from graphformer.data.planetoid import planetoid
from graphformer.data.splits import fraction_split, random_split
from graphformer.data.text_lines import read_lines
from graphformer.data.vocabulary import load, train_bpe, train_characters, train_unigram


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(message: str, error: type[Exception] = ValueError) -> Any:
    return pytest.raises(error, match=re.escape(message))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(published_files, "download_url_to_file", fail)


# text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"years": (1900, 1910)}, "years 1900 to 1910 are 11: at least 20 are needed"),
        ({"years": (2000, 1900)}, "years 2000 to 1900: write a first and a last year"),
        ({"years": (900, 1900)}, "between 1000 and 9999"),
        ({"num_test": 0}, "num_test is 0: its 20 years allow 1 to 7300 different pairs"),
        ({"num_train": 100_000}, "num_train is 100000: its 170 years allow 1 to 62050"),
    ],
)
def test_dates_refuse_what_cannot_be_held_out(arguments: dict[str, Any], message: str) -> None:
    with refused(message):
        dates(**arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text.txt is empty"),
        (b" \n\n", "text.txt is empty"),
        (b"eins\nzw\xf6lf\n", "text.txt, line 2, byte 3: not UTF-8 (0xf6)"),
        ("eins\nzwölf".encode("utf-16"), "text.txt, line 1, byte 1: not UTF-8 (0xff)"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_place(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with refused(message):
        read_lines(write(tmp_path / "text.txt", content))


def test_truncated_gzip_is_refused_by_name(tmp_path: Path) -> None:
    packed = gzip.compress(b"eins\nzwei\n" * 1_000)
    for content in (packed[: len(packed) // 2], packed[:-3], b"eins\nzwei\n"):
        with refused("text.de.gz is truncated or not gzip"):
            read_lines(write(tmp_path / "text.de.gz", content))


def test_parallel_text_names_both_files_and_both_counts(tmp_path: Path) -> None:
    source = write(tmp_path / "text.de", "eins\nzwei\ndrei\n")
    target = write(tmp_path / "text.en", "one\ntwo\n")
    for stream in (False, True):
        with refused(f"{source} has 3 lines and {target} has 2"):
            parallel(source, target, stream=stream)
        with refused("lines 3 to 3 have no partner"):
            parallel(target, source, stream=stream)
    missing = tmp_path / "a.de", tmp_path / "a.en"
    with refused(f"no such file: {missing[0]} and {missing[1]}", FileNotFoundError):
        parallel(*missing)
    with refused(f"no such file: {missing[1]}", FileNotFoundError):
        parallel(source, missing[1])
    with refused(f"{tmp_path} is a folder", FileNotFoundError):
        parallel(source, tmp_path)
    with refused("no line has text in both files"):
        parallel(
            write(tmp_path / "one.de", "eins\nzwei\n \n"), write(tmp_path / "one.en", "\n\nx\n")
        )


def test_streamed_text_refuses_what_is_no_text(tmp_path: Path) -> None:
    full, empty = write(tmp_path / "full", "eins"), write(tmp_path / "empty", "")
    with refused(f"{empty} is empty: expected UTF-8 text"):
        parallel(full, empty, stream=True)
    with refused(f"{tmp_path} is a folder", FileNotFoundError):
        parallel(tmp_path, full, stream=True)
    with refused(f"no such file: {tmp_path / 'none'}", FileNotFoundError):
        parallel(full, tmp_path / "none", stream=True)


def test_multi30k_lists_the_files_it_needs(tmp_path: Path) -> None:
    with refused("Expected in it: raw/train.de.gz, raw/train.en.gz, raw/val.de", FileNotFoundError):
        multi30k(tmp_path)
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "train.de.gz", b"")
    with refused("lacks train.en.gz, val.de.gz", FileNotFoundError):
        multi30k(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_multi30k_needs_a_known_variant_and_two_languages(tmp_path: Path) -> None:
    with refused("variant 'bpe' of Multi30k is unknown: write 'raw' or 'tok'"):
        multi30k(tmp_path, variant="bpe")
    with refused("source is 'de', and so is the target: write target='en'"):
        multi30k(tmp_path, source="de", target="de")


def test_vocabularies_need_text_and_room() -> None:
    with refused("vocab_size 200 is too small"):
        train_bpe(["ein Haus"], vocab_size=200)
    with refused("vocab_size 259 is too small"):
        train_unigram(["ein Haus"], vocab_size=259)
    for lines in ([], [""]):
        for train in (train_bpe, train_unigram):
            with refused("no text to learn pieces of words from"):
                train(lines, vocab_size=300)
        with refused("no text to make a vocabulary from"):
            train_characters(lines)


def test_a_vocabulary_file_must_be_whole_and_ours(tmp_path: Path) -> None:
    whole = train_characters(["abc"]).to_str()
    for content, message in (
        (whole[: len(whole) // 2], "is truncated or not JSON"),
        ("{}", "holds no tokenizer"),
        (whole.replace("<pad>", "[PAD]"), "the first tokens are [PAD], <unk>, <s>, </s>"),
    ):
        with refused(message):
            load(write(tmp_path / "vocabulary.json", content))
    with refused("expected a tokenizer's JSON file", FileNotFoundError):
        load(tmp_path / "none.json")


# published graphs


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (planetoid, "Planetoid has no 'corra': known are cora, citeseer, pubmed"),
        (heterophilous, "the heterophilous collection has no 'corra': known are amazon-ratings"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(
    read: Callable[[str], GraphData], message: str
) -> None:
    with refused(message):
        read("corra")


@pytest.mark.usefixtures("offline")
def test_missing_files_without_a_network_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused(f"ind.cora.test.index not found in {tmp_path}", FileNotFoundError) as caught:
        planetoid("cora", tmp_path)
    assert "planetoid, Cora/raw, raw" in str(caught.value)
    assert "no route to host" in str(caught.value)
    monkeypatch.setenv("GRAPHFORMER_CACHE", str(tmp_path / "cache"))
    with refused(f"minesweeper.npz not found in {tmp_path / 'cache'}", FileNotFoundError):
        heterophilous("minesweeper")


def test_missing_files_are_downloaded_where_they_are_then_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, path: str, **kwargs: object) -> None:
        asked.append(url)
        Path(path).write_text("content", encoding="utf-8")

    monkeypatch.setattr(published_files, "download_url_to_file", download)
    for _ in range(2):
        folder = published_files.find_or_download(["a", "b"], tmp_path, ("set",), "https://host")
        assert folder == tmp_path / "set"
    assert asked == ["https://host/a", "https://host/b"]


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.usefixtures("offline")
def test_planetoid_calls_nothing_that_a_pickle_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in planetoid_module._PARTS:
        write(tmp_path / f"ind.cora.{part}", pickle.dumps(Malicious()))
    called: list[str] = []
    monkeypatch.setattr(os, "system", called.append)
    with refused("ind.cora.x is truncated or not as published: it names posix.system"):
        planetoid("cora", tmp_path)
    assert not called


@pytest.mark.parametrize("part", ["x", "graph", "ally", "test.index"])
def test_truncated_planetoid_files_are_refused(
    shared_data: Path, tmp_path: Path, part: str
) -> None:
    folder = shared_data / "planetoid"
    if not folder.is_dir():
        pytest.skip(f"no Planetoid files at {folder}")
    for path in folder.iterdir():
        content = path.read_bytes()
        cut = path.name == f"ind.cora.{part}"
        write(tmp_path / path.name, content[: len(content) // 2] if cut else content)
    with refused("ind.cora."):
        planetoid("cora", tmp_path)


def test_heterophilous_files_must_be_whole(tmp_path: Path) -> None:
    path = tmp_path / "minesweeper.npz"
    np.savez(path, node_features=np.ones((3, 2)), node_labels=np.arange(3), edges=[[0, 1]])
    with refused(f"{path} is not as published: it lacks train_masks, val_masks"):
        heterophilous("minesweeper", tmp_path)
    write(path, path.read_bytes()[:-40])
    with refused(f"{path} is truncated, or not an array file"):
        heterophilous("minesweeper", tmp_path)
    np.savez(path, node_features=np.array([{}], dtype=object))
    with refused(f"{path} is truncated, or not an array file"):
        heterophilous("minesweeper", tmp_path)


def test_digits_refuse_impossible_neighborhoods() -> None:
    for neighbors in (0, 1_797):
        with refused(f"neighbors is {neighbors}: write a number from 1 to 1796"):
            digits(neighbors)


# splits and checks

Y = torch.tensor([0, 0, 0, 1, 1, -1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 1, 1), "class 1 has 2 nodes, fewer than the 3 to train on"),
        ((1, 2, 2), "3 labeled nodes are left after 1 a class, fewer than 2 to validate and 2"),
        ((1, 3, None), "fewer than 3 to validate and 1 to test"),
        ((0, 1, 1), "a split of 0 a class, 1 to validate and 1 to test"),
    ],
)
def test_random_splits_refuse_what_does_not_fit(
    arguments: tuple[int, int, int | None], message: str
) -> None:
    with refused(message):
        random_split(Y, *arguments, seed=0)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.6, 0.4, 0.2), "add to at most 1"),
        ((0.6, 0.4, 0.0), "write three positive numbers"),
        ((0.9, 0.05, 0.05), "of 5 labeled nodes leave a part without a node"),
    ],
)
def test_fractions_that_do_not_fit_are_refused(
    fractions: tuple[float, float, float], message: str
) -> None:
    with refused(message):
        fraction_split(Y, fractions, seed=0)


def small_graph(**changes: Any) -> GraphData:
    masks = torch.eye(3, dtype=torch.bool)[:, None]
    graph = GraphData(
        torch.ones(3, 2),
        torch.tensor([[0, 1], [1, 2]]),
        torch.tensor([0, 1, 0]),
        masks[0],
        masks[1],
        masks[2],
        name="small",
        num_classes=2,
        class_names=("a", "b"),
    )
    return graph._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": torch.tensor([[1.0, 1.0], [1.0, torch.nan], [torch.inf, 1.0]])},
            "small: feature 1 of node 1 is nan, one of 2 values that are not finite",
        ),
        ({"x": torch.ones(3, 0)}, "small: features are (3, 0)"),
        (
            {"edge_index": torch.tensor([[0, 3], [1, 2]])},
            "small: edge 1 joins 3 and 2, but nodes are numbered 0 to 2",
        ),
        ({"y": torch.tensor([0, 1])}, "small: 2 labels for 3 nodes"),
        ({"y": torch.tensor([0, 2, 1])}, "small: label 2 of node 1 is no class"),
        ({"y": torch.tensor([0, -1, 1])}, "small: node 1 is in split 0 and has no label"),
        ({"test_mask": torch.ones(3, dtype=torch.bool)}, "the test mask is (3,), and must be"),
        (
            {"test_mask": torch.tensor([[True, False, True]])},
            "small: node 0 is in both train and test of split 0",
        ),
        (
            {"val_mask": torch.zeros(1, 3, dtype=torch.bool)},
            "small: the val part of split 0 has no node",
        ),
    ],
)
def test_graphs_that_cannot_be_trained_on_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    assert check_graph(small_graph()).num_nodes == 3
    with refused(message):
        check_graph(small_graph(**changes))


def test_labels_that_a_model_does_not_know_are_named() -> None:
    with refused("small has the unknown label b: known are a, c"):
        small_graph().align_classes(("a", "c"))
