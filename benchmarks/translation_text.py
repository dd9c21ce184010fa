"""The sentences that translators are measured on, and how large these are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from translation_peers import Padded

from graphformer.data.vocabulary import END, START, train_bpe
from graphformer.models.sequence import Size
from graphformer.tasks.translation.corpus import EncodedPair, encode_pairs

VOCABULARY = 10_000
# torch's Transformer drops activations too.
SIZE = Size(dim=128, heads=4, layers=4, hidden=256, dropout=0.3, activation_dropout=0.3)
# Synthetic sentences that are decoded.
TEST = 1000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def read_pairs(folder: Path | None) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """Pairs to train on and to test with."""
    if folder is None:
        print("synthetic sentences, as long as those of Multi30k")
        return synthetic(8000, seed=0), synthetic(TEST, seed=1)
    names = [folder / "tok" / f"{part}.lc.norm.tok" for part in ("train", "test_2016_flickr")]
    texts = [
        [
            file.with_name(f"{file.name}.{language}").read_text("utf-8").splitlines()
            for language in ("en", "de")
        ]
        for file in names
    ]
    tokenizer = train_bpe([line for side in texts[0] for line in side], VOCABULARY)
    train, test = (encode_pairs(tokenizer, list(zip(*sides, strict=True))) for sides in texts)
    print(f"Multi30k, {len(train):,} pairs, joint BPE of {tokenizer.get_vocab_size():,}")
    return train[:8000], test


def synthetic(count: int, seed: int) -> list[EncodedPair]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randn(count, generator=generator).mul(4.5).add(15).round().clamp(5, 45)
    more = torch.randn(count, generator=generator).mul(2).round()
    pairs = []
    for length, other in zip(
        lengths.long().tolist(), (lengths + more).clamp(5).long().tolist(), strict=True
    ):
        source, target = (
            torch.randint(4, VOCABULARY, (size,), generator=generator) for size in (length, other)
        )
        ends = torch.tensor([END])
        pairs.append(
            EncodedPair(torch.cat([source, ends]), torch.cat([torch.tensor([START]), target, ends]))
        )
    return pairs


def padded(pairs: list[EncodedPair]) -> Padded:
    source = nn.utils.rnn.pad_sequence([pair.source for pair in pairs], batch_first=True)
    target = nn.utils.rnn.pad_sequence([pair.target[:-1] for pair in pairs], batch_first=True)
    following = torch.cat([pair.target[1:] for pair in pairs])
    return Padded(source, target, following, source == 0, target != 0)
