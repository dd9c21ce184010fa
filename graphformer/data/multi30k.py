"""Multi30k, task 1: 29,000 image captions in several languages, translated by professionals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal, get_args

from graphformer.data.parallel import TextSplits, parallel

Variant = Literal["raw", "tok"]

_PARTS = ("train", "val", "test_2016_flickr")
_FILE_NAMES = {"raw": "{part}.{language}.gz", "tok": "{part}.lc.norm.tok.{language}"}


def multi30k(
    data_dir: str | Path, source: str = "de", target: str = "en", variant: Variant = "raw"
) -> TextSplits:
    """Training, validation and test_2016_flickr pairs, as the repository publishes them.

    Warns where lines are left out: of those that were published, none is empty.

    Args:
        data_dir: folder with `raw/` and `tok/` (the repository's `data/task1`), or one in
            which that is called `multi30k`.
        source: language translated from: "de", "en", "fr" or "cs", where its files are there.
        target: language translated into.
        variant: "raw", the sentences as written (what a cased BLEU score needs), or "tok",
            lower-cased, normalized and tokenized.

    Raises:
        FileNotFoundError: files are missing (listing them and where they were expected).
        ValueError: unknown variant, equal languages, or unreadable files (see `parallel`).

    Source: Elliott et al., Multi30K, 2016 (arXiv 1605.00459).
    """
    if variant not in get_args(Variant):
        known = " or ".join(map(repr, get_args(Variant)))
        raise ValueError(f"variant {variant!r} of Multi30k is unknown: write {known}")
    if source == target:
        other = "en" if source == "de" else "de"
        raise ValueError(f"source is {source!r}, and so is the target: write target={other!r}")
    names = {
        (part, language): _FILE_NAMES[variant].format(part=part, language=language)
        for part in _PARTS
        for language in (source, target)
    }
    folder = _find_folder(Path(data_dir), variant, list(names.values()))
    texts = [
        parallel(folder / names[part, source], folder / names[part, target]) for part in _PARTS
    ]
    for part, text in zip(_PARTS, texts, strict=True):
        if text.dropped.total:
            warnings.warn(
                f"Multi30k is not as it was published: {part} has {text.report}", stacklevel=2
            )
    train, validation, test = (text.pairs for text in texts)
    return TextSplits(f"multi30k/{variant} {source}-{target}", train, validation, test)


def _find_folder(data_dir: Path, variant: str, names: list[str]) -> Path:
    folders = (data_dir / variant, data_dir / "multi30k" / variant)
    for folder in folders:
        if folder.is_dir():
            missing = [name for name in names if not (folder / name).is_file()]
            if not missing:
                return folder
            raise FileNotFoundError(f"Multi30k: {folder} lacks {', '.join(missing)}")
    raise FileNotFoundError(
        f"Multi30k: no folder {' or '.join(map(str, folders))}; get data/task1 of "
        f"https://github.com/multi30k/dataset and pass it as data_dir. Expected in it: "
        f"{', '.join(f'{variant}/{name}' for name in names)}"
    )
