"""A model with its vocabulary: text in, text out; saved to a folder and loaded from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from graphformer.data import vocabulary
from graphformer.data.vocabulary import UNKNOWN
from graphformer.models.pretrained import Saved, load_model, read_saved, save_model
from graphformer.models.stack import of_each
from graphformer.tasks.translation.attending import KINDS, Translating
from graphformer.tasks.translation.decoding import best_of
from graphformer.tasks.translation.settings import Precision, Search

JOINT, SEPARATE = "tokenizer.json", ("source.tokenizer.json", "target.tokenizer.json")


class Translator:
    """Translates lines of text.

    Args:
        model: from source ids to target ids.
        tokenizer: the joint vocabulary, or those of (source, target).
        characters: those of the training text; where left out, those that the vocabulary has, to
            which none is unknown where it is one of bytes.
        growth: a translation gets at most so many tokens for each of its source, and 20 more.
    """

    def __init__(
        self,
        model: Translating,
        tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer],
        characters: str = "",
        growth: float = 2.0,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.characters, self.growth = characters, growth
        self.source_tokenizer, self.target_tokenizer = of_each(tokenizer)

    def translate(
        self,
        lines: list[str],
        beam: int = 5,
        length_penalty: float = 1.0,
        precision: Precision = "32-true",
    ) -> list[str]:
        """The translation of each line; an empty line stays empty.

        Args:
            lines: of text.
            beam: number of translations that are followed side by side; 1 takes the likeliest
                next token each time.
            length_penalty: power of the length that a log-probability is divided by.
            precision: 32-true or bf16-mixed, of which the latter may be faster.

        Raises:
            ValueError: settings make no sense, or `lines` is a line.
        """
        if isinstance(lines, str):
            raise ValueError("lines is a line of text: write it in a list, [line]")
        return best_of(self, lines, Search(beam, length_penalty, precision))

    def unknown_characters(self, lines: list[str]) -> Counter[str]:
        """How often each character stands in the lines that training never showed."""
        lines = [line.strip() for line in lines]
        if self.characters:
            known = set(self.characters)
            return Counter(each for line in lines for each in line if each not in known)
        return Counter(
            line[start:end]
            for line, encoded in zip(lines, self.source_tokenizer.encode_batch(lines), strict=True)
            for id_, (start, end) in zip(encoded.ids, encoded.offsets, strict=True)
            if id_ == UNKNOWN
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Leaves model and vocabulary in `folder`, each file whole or not at all."""
        folder = Path(folder)
        for name, tokenizer in named(self.tokenizer).items():
            vocabulary.save(tokenizer, folder / name)
        notes = {"characters": self.characters, "growth": self.growth}
        save_model(self.model, folder, list(named(self.tokenizer)), notes)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **settings: Any) -> Translator:
        """The translator that `save_pretrained`, or `graphformer translate fit`, left in `folder`.

        Args:
            folder: where it is.
            settings: arguments of the model that take the place of those it was saved with; a
                score or a topology of one's own is given so.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another kind or version.
        """
        saved = read_saved(folder)
        if saved.kind not in KINDS:
            raise ValueError(
                f"{saved.folder} holds a {saved.kind}, which translates nothing: a translator is a "
                f"{' or a '.join(KINDS)}"
            )
        files = saved.config["files"]
        joint = JOINT in files
        if not joint and not set(SEPARATE) <= files.keys():
            raise ValueError(
                f"{saved.folder} holds a model without {JOINT} (or {' and '.join(SEPARATE)}): save "
                "it as a Translator, with its vocabulary"
            )
        tokenizers = [read_tokenizer(saved, name) for name in ([JOINT] if joint else SEPARATE)]
        model: Any = load_model(saved, KINDS[saved.kind], **settings)
        for each, table in zip(tokenizers, (model.source, model.target), strict=False):
            if each.get_vocab_size() != table.weight.shape[0]:
                raise ValueError(
                    f"{saved.folder} has a vocabulary of {each.get_vocab_size():,} ids, and a "
                    f"model for {table.weight.shape[0]:,}: save both together"
                )
        tokenizer = tokenizers[0] if joint else (tokenizers[0], tokenizers[1])
        characters = str(saved.config.get("characters", ""))
        return cls(model, tokenizer, characters, float(saved.config.get("growth", 2.0)))


def named(tokenizer: Tokenizer | tuple[Tokenizer, Tokenizer]) -> dict[str, Tokenizer]:
    """The vocabularies by the names of their files."""
    if isinstance(tokenizer, tuple):
        return dict(zip(SEPARATE, tokenizer, strict=True))
    return {JOINT: tokenizer}


def read_tokenizer(saved: Saved, name: str) -> Tokenizer:
    """The vocabulary that was saved with a model under this name."""
    saved.read(name)
    return vocabulary.load(saved.folder / name)
