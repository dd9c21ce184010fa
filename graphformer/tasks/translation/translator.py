"""A model with its vocabulary: text in, text out; saved to a folder and loaded from it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer

from graphformer.data import vocabulary
from graphformer.data.vocabulary import END, START, UNKNOWN
from graphformer.files import replacing, write_json
from graphformer.models.decode import beam_search, greedy
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks.checkpoints import first_line
from graphformer.tasks.translation.corpus import encode_sources
from graphformer.tasks.translation.settings import Attending
from graphformer.tokens import sequences

FORMAT = 1
MODEL, WEIGHTS, VOCABULARY = "model.json", "model.safetensors", "vocabulary.json"
# Source tokens that are translated at a time.
BATCH_TOKENS = 4096


class Translator:
    """Translates lines of text.

    Args:
        tokenizer: the joint vocabulary.
        size: how wide and deep the model is.
        attending: who attends to whom in it, and how strongly.
        characters: those of the training text; where left out, those that the vocabulary has, to
            which none is unknown where it is one of bytes.
    """

    def __init__(
        self, tokenizer: Tokenizer, size: Size, attending: Attending, characters: str = ""
    ) -> None:
        self.tokenizer, self.size, self.attending = tokenizer, size, attending
        self.characters = characters
        options = vars(attending) | {"positions": None}
        if attending.positions != "none":
            options["positions"] = attending.positions
        self.model = Transformer(tokenizer.get_vocab_size(), size, **options)

    @torch.no_grad()
    def translate(self, lines: list[str], beam: int = 5, length_penalty: float = 1.0) -> list[str]:
        """The translation of each line; an empty line stays empty.

        Args:
            lines: of text.
            beam: number of translations that are followed side by side; 1 takes the likeliest
                next token each time.
            length_penalty: power of the length that a log-probability is divided by.
        """
        found = [""] * len(lines)
        sources = encode_sources(self.tokenizer, lines)
        by_length = sorted(
            (index for index, line in enumerate(lines) if line.strip()),
            key=lambda index: len(sources[index]),
        )
        was_training = self.model.training
        self.model.eval()
        for chosen in cut(by_length, [len(source) for source in sources]):
            ids = self._decode([sources[index] for index in chosen], beam, length_penalty)
            for index, text in zip(chosen, self.tokenizer.decode_batch(ids), strict=True):
                found[index] = text.strip()
        self.model.train(was_training)
        return found

    def unknown_characters(self, lines: list[str]) -> Counter[str]:
        """How often each character stands in the lines that training never showed."""
        if self.characters:
            known = set(self.characters)
            return Counter(each for line in lines for each in line if each not in known)
        return Counter(
            line[start:end]
            for line, encoded in zip(lines, self.tokenizer.encode_batch(lines), strict=True)
            for id_, (start, end) in zip(encoded.ids, encoded.offsets, strict=True)
            if id_ == UNKNOWN
        )

    def save(self, folder: Path) -> None:
        """Leaves weights, vocabulary and settings of the model in `folder`, each file whole."""
        with replacing(folder / WEIGHTS) as file:
            save_model(self.model, file.name)
        vocabulary.save(self.tokenizer, folder / VOCABULARY)
        described: dict[str, Any] = {"size": asdict(self.size), "attending": asdict(self.attending)}
        described["characters"] = self.characters
        write_json(folder / MODEL, {"format": FORMAT, **described})

    @classmethod
    def load(cls, folder: Path) -> Translator:
        """The translator that `save` left in `folder`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another version.
        """
        missing = [name for name in (MODEL, VOCABULARY, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} holds no trained translator, it lacks {', '.join(missing)}: name the "
                "--out folder of a graphformer translate fit that has ended"
            )
        try:
            settings = json.loads((folder / MODEL).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / MODEL} is damaged: {error}") from error
        if not isinstance(settings, dict) or not {"format", "size", "attending"} <= settings.keys():
            raise ValueError(f"{folder / MODEL} does not describe a model: train it anew")
        if settings["format"] != FORMAT:
            raise ValueError(
                f"{folder / MODEL} has format {settings['format']}, and this version reads "
                f"format {FORMAT}: train it anew, or install the version that wrote it"
            )
        try:
            size, attending = Size(**settings["size"]), Attending(**settings["attending"])
            translator = cls(
                vocabulary.load(folder / VOCABULARY),
                size,
                attending,
                settings.get("characters", ""),
            )
        except TypeError as error:
            raise ValueError(
                f"{folder / MODEL} does not describe a model: {error}: train it anew"
            ) from error
        try:
            load_model(translator.model, str(folder / WEIGHTS))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder / WEIGHTS} is damaged or of another model: {first_line(error)}"
            ) from error
        return translator

    def _decode(
        self, sources: list[torch.Tensor], beam: int, length_penalty: float
    ) -> list[list[int]]:
        tokens = sequences(sources).to(self.model.output_weight.device)
        # Longer than any translation seen, and yet an end to those that repeat themselves.
        limits = 2 * tokens.lengths + 20
        if beam == 1:
            likeliest = greedy(self.model, tokens, begin=START, end=END, max_length=limits)
            return [ids.tolist() for ids in likeliest]
        found = beam_search(
            self.model,
            tokens,
            begin=START,
            end=END,
            beam=beam,
            length_penalty=length_penalty,
            max_length=limits,
        )
        return [hypotheses[0].ids.tolist() for hypotheses in found]


def cut(indices: list[int], lengths: list[int]) -> list[list[int]]:
    """The indices in runs of at most BATCH_TOKENS tokens, or of one line."""
    runs: list[list[int]] = []
    size = BATCH_TOKENS
    for index in indices:
        if size + lengths[index] > BATCH_TOKENS:
            runs.append([])
            size = 0
        runs[-1].append(index)
        size += lengths[index]
    return runs
