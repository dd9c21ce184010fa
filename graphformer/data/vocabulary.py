"""Text into ids and back: one token a character, or pieces of words, merged or by likelihood.

All are plain `tokenizers.Tokenizer` objects: `tokenizer.encode(text).ids`, `encode_batch`,
`decode(ids)`, `token_to_id`, `get_vocab_size()`. The four special tokens have the ids 0 to 3 in
every vocabulary, are never made from text (a sentence that spells "</s>" is five characters) and
are left out by `decode`; who needs a start or an end adds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from graphformer.files import write_text

PAD, UNKNOWN, START, END = range(4)
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")

# Pieces of words are made of bytes, of which all are tokens.
_NUM_BYTES = 256
SMALLEST_BPE = len(SPECIAL_TOKENS) + _NUM_BYTES

Kind = Literal["bpe", "unigram"]


def train_characters(lines: Iterable[str]) -> Tokenizer:
    """A vocabulary of the characters of `lines`; any other character becomes `<unk>`.

    Raises:
        ValueError: there is no character in `lines`.
    """
    found: set[str] = set()
    for line in lines:
        found.update(line)
    characters = sorted(found)
    if not characters:
        raise ValueError("no text to make a vocabulary from: `lines` has no character")
    tokens = [*SPECIAL_TOKENS, *characters]
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL_TOKENS[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return _reading_text_as_text(tokenizer)


def train_bpe(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding learned from `lines`, which writes any text and decodes it exactly.

    It merges bytes, so that nothing is unknown, and keeps spaces, case and rare characters, so
    that scores of cased, detokenized text need no further step.

    Args:
        lines: sentences; for a joint vocabulary, those of both languages.
        vocab_size: number of tokens at most, the 4 special ones and the 256 bytes included.

    Raises:
        ValueError: there is no text, or `vocab_size` leaves no room for the bytes.

    Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016
    (arXiv 1508.07909).
    """
    trainer = trainers.BpeTrainer(**_pieces(vocab_size))
    return _train(Tokenizer(models.BPE()), trainer, lines)


def train_unigram(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """Pieces whose product of probabilities is largest, learned from `lines`, out of bytes as well.

    Args:
        lines: sentences; for a joint vocabulary, those of both languages.
        vocab_size: number of tokens at most, the 4 special ones and the 256 bytes included.

    Raises:
        ValueError: there is no text, or `vocab_size` leaves no room for the bytes.

    Source: Kudo, Subword Regularization, 2018 (arXiv 1804.10959), section 3.2.
    """
    trainer = trainers.UnigramTrainer(unk_token=SPECIAL_TOKENS[UNKNOWN], **_pieces(vocab_size))
    described = json.loads(_train(Tokenizer(models.Unigram()), trainer, lines).to_str())
    # With all their digits, `tokenizers` reads other numbers than it wrote: after loading, a word
    # could fall into other pieces.
    pieces = [[piece, round(score, 9)] for piece, score in described["model"]["vocab"]]
    described["model"]["vocab"] = pieces
    return from_json(json.dumps(described))


def train_pieces(lines: Iterable[str], vocab_size: int, kind: Kind = "bpe") -> Tokenizer:
    """Pieces of words of this kind; see `train_bpe` and `train_unigram`."""
    return (train_bpe if kind == "bpe" else train_unigram)(lines, vocab_size)


def save(tokenizer: Tokenizer, path: str | Path) -> None:
    """Writes `tokenizer` to a JSON file, whole or not at all."""
    write_text(Path(path), tokenizer.to_str(pretty=True))


def load(path: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no tokenizer, or one with other special tokens.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a tokenizer's JSON file")
    try:
        content = path.read_text(encoding="utf-8")
        json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
    try:
        tokenizer = from_json(content)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"{path} holds no tokenizer: {error}") from error
    found = tuple(tokenizer.id_to_token(index) for index in range(len(SPECIAL_TOKENS)))
    if found != SPECIAL_TOKENS:
        raise ValueError(
            f"{path}: the first tokens are {', '.join(map(str, found))}, and must be "
            f"{', '.join(SPECIAL_TOKENS)}: train the vocabulary with graphformer.data.vocabulary"
        )
    return tokenizer


def from_json(content: str) -> Tokenizer:
    """The tokenizer of which `to_str` is `content`, which takes text for text."""
    return _reading_text_as_text(Tokenizer.from_str(content))


def _pieces(vocab_size: int) -> dict[str, Any]:
    """What the trainers of pieces of words are told alike."""
    if vocab_size < SMALLEST_BPE:
        raise ValueError(
            f"vocab_size {vocab_size} is too small: the {len(SPECIAL_TOKENS)} special tokens and "
            f"the {_NUM_BYTES} bytes alone need {SMALLEST_BPE}"
        )
    return {
        "vocab_size": vocab_size,
        "special_tokens": list(SPECIAL_TOKENS),
        "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
        "show_progress": False,
    }


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer, lines: Iterable[str]) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Never a list: there may be more lines than fit into memory.
    with_text = (line for line in lines if line)
    if (first := next(with_text, None)) is None:
        raise ValueError("no text to learn pieces of words from: `lines` has no character")
    tokenizer.train_from_iterator(chain([first], with_text), trainer)
    return _reading_text_as_text(tokenizer)


def _reading_text_as_text(tokenizer: Tokenizer) -> Tokenizer:
    # The setting is not kept in the JSON file: a sentence that spells a special token must not
    # end itself.
    tokenizer.encode_special_tokens = True
    return tokenizer
