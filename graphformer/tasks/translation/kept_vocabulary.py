"""The vocabulary of a run, made once: resumed, or on several devices, it is the same."""

from __future__ import annotations

import re
import shutil
import time
from hashlib import blake2b
from pathlib import Path

from tokenizers import Tokenizer

from graphformer.data import vocabulary
from graphformer.data.parallel import Pairs
from graphformer.tasks.translation.corpus import make_vocabulary
from graphformer.tasks.translation.settings import Course
from graphformer.tasks.translation.translator import JOINT, SEPARATE, named

FOLDER = "vocabulary"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")  # see `fingerprint`
# How long a process waits for the one that makes the vocabulary.
SECONDS = 3600.0


class KeptVocabulary:
    """The vocabulary of a training text, kept in the folder of the run that made it.

    The training of a unigram vocabulary is not the same each time, as merges are.

    Args:
        out: folder of the run.
        pairs: the training text.
        course: which says what vocabulary it is.
    """

    def __init__(self, out: Path, pairs: Pairs, course: Course) -> None:
        self.pairs, self.course = pairs, course
        self.folder = out / FOLDER / fingerprint(pairs, course)
        text, _ = self.folder.name.split("-")
        there = (each for each in self.folder.parent.glob("*-*") if _NAME.fullmatch(each.name))
        self.others = [each for each in there if each.is_dir() and not each.match(f"{text}-*")]

    def check_text(self) -> None:
        """Does nothing where no run with another training text was in the folder.

        Raises:
            ValueError: one was, whose weights would be gone on with by ids of other words.
        """
        if self.others:
            raise ValueError(
                f"resume: the training text is not the one that the run in "
                f"{self.folder.parents[1]} began with; bring that back, or choose another folder"
            )

    def get(self, makes: bool = True) -> Tokenizer | tuple[Tokenizer, Tokenizer]:
        """The vocabulary that was kept; where there is none, a new one.

        Args:
            makes: whether this process is the one that makes it; another one waits for it.

        Raises:
            TimeoutError: no other process has made it.
        """
        course = self.course
        if not makes and course.vocabulary_kind == "unigram":
            self._wait()
        if (kept := self._read()) is not None:
            return kept
        size, kind = course.vocabulary, course.vocabulary_kind
        return make_vocabulary(self.pairs, size, kind, course.vocabulary_joint)

    def keep(self, tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer], begins: bool) -> None:
        """The vocabulary is in the folder of the run, for whoever goes on with it.

        Args:
            tokenizer: the vocabulary.
            begins: whether the run does, and those of other texts are of a run that left nothing
                else: they are removed.
        """
        for abandoned in self.others if begins else []:
            shutil.rmtree(abandoned)
        for name, each in named(tokenizer).items():
            vocabulary.save(each, self.folder / name)

    def _read(self) -> Tokenizer | tuple[Tokenizer, Tokenizer] | None:
        names = [JOINT] if self.course.vocabulary_joint else SEPARATE
        if not all((self.folder / name).is_file() for name in names):
            return None
        read = [vocabulary.load(self.folder / name) for name in names]
        return read[0] if len(read) == 1 else (read[0], read[1])

    def _wait(self) -> None:
        end = time.monotonic() + SECONDS
        while self._read() is None:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{self.folder} got no vocabulary within an hour from the first process: start "
                    "it too, with the same --out in a folder that all machines share"
                )
            time.sleep(0.1)


def fingerprint(pairs: Pairs, course: Course) -> str:
    """Of the text that a vocabulary is made from, and of how it is made."""
    made = repr((course.vocabulary, course.vocabulary_kind, course.vocabulary_joint))
    text = blake2b(digest_size=8)
    for source, target in pairs:
        text.update(f"{source}\n{target}\n".encode())
    return f"{text.hexdigest()}-{blake2b(made.encode(), digest_size=4).hexdigest()}"
