"""Files of published data sets: found where a user has them, downloaded otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file

from graphformer.machine import cache_folder


def find_or_download(
    names: Sequence[str], data_dir: str | Path | None, folders: Sequence[str], url: str
) -> Path:
    """The folder that holds all of `names`, downloaded where no folder does.

    Args:
        names: files needed.
        data_dir: where to look, and to download to; None for the user's cache
            (`GRAPHFORMER_CACHE`, or the system's place for caches).
        folders: subfolders of `data_dir` that may hold the files; the first is downloaded to.
        url: address of the folder of the published files.

    Raises:
        FileNotFoundError: the files are missing, and could not be downloaded.
    """
    root = cache_folder() if data_dir is None else Path(data_dir)
    for folder in (root, *(root / name for name in folders)):
        if all((folder / name).is_file() for name in names):
            return folder
    destination = root / folders[0]
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (destination / name).is_file():
                # It downloads beside the file and moves it, so that none is left half written.
                download_url_to_file(
                    f"{url}/{name}", str(destination / name), progress=sys.stderr.isatty()
                )
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"{', '.join(names)} not found in {root} (nor in its {', '.join(folders)}), and "
            f"downloading from {url} to {destination} failed: {error}. Get the files from there, "
            f"and pass their folder as data_dir"
        ) from error
    return destination


def check_name(name: str, known: Sequence[str], collection: str) -> None:
    """Nothing, when `name` is one of the data sets of `collection`.

    Raises:
        ValueError: it is not (listing the known ones).
    """
    if name not in known:
        raise ValueError(f"{collection} has no {name!r}: known are {', '.join(known)}")
