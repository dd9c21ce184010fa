"""Decoding with a beam: ours, torch's without a cache, and Marian with its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timing import Demand, compare
from torch import Tensor, nn
from translation_peers import TorchTranslator, make_marian, search, search_marian, search_whole
from translation_text import DTYPES, SIZE, VOCABULARY

from graphformer import sequences
from graphformer.data.vocabulary import START
from graphformer.models.decode import beam_search
from graphformer.models.sequence import Transformer
from graphformer.tasks.translation.corpus import EncodedPair
from graphformer.tasks.translation.decoding import runs_of

BEAM = 5
# Sentences of like length that are decoded to one length, and sentences that Marian decodes at
# once, of which the faster counts. torch's model takes the first, which is its faster one too.
GROUP, AT_ONCE = 50, (50, 100)
# torch's model has no cache. The demand does not say how it is called: as it stands, or with what
# its parts allow. As either takes a while, its time is taken once.
UNCACHED = {"called whole for each token": search_whole, "encoding once": search}


def decoding(pairs: list[EncodedPair], rounds: int) -> list[Demand]:
    """Seconds to decode the test set with a beam, to lengths that are the same for all."""
    sources = sorted((pair.source for pair in pairs), key=len)
    lengths = [len(source) for source in sources]
    # Sentences of a group end together, so that no peer waits for a single long one.
    starts = [at - at % GROUP for at in range(len(lengths))]
    limits = [max(lengths[start : start + GROUP]) for start in starts]
    ours = Transformer(VOCABULARY, SIZE).eval()
    torch_model = TorchTranslator(VOCABULARY, SIZE).eval()
    try:
        marian = make_marian(VOCABULARY, SIZE)
    except ImportError as error:
        print(f"\nHugging Face's Marian is left out: {error}; pip install transformers")
        marian = None
    demands = []
    decode_all = by_us(ours, sources, limits)
    for name, dtype in DTYPES.items():
        title = f"decoding, {len(sources)} sentences, beam {BEAM}, {name}"
        runs = {
            f"nn.Transformer, {how}, {AT_ONCE[0]} at once": cast(
                by_peer(decode, torch_model, sources, limits, AT_ONCE[0]), dtype
            )
            for how, decode in UNCACHED.items()
        }
        runs["graphformer"] = cast(decode_all, dtype)
        *peers, own = compare(title, runs, 1).values()
        for how, peer in zip(UNCACHED, peers, strict=True):
            demands.append(
                Demand(f"decoding, {name}, time over nn.Transformer's, {how}", own / peer, 1 / 10)
            )
        if marian is None:
            continue
        runs = {
            f"Marian, with its cache, {size} at once": cast(
                by_peer(search_marian, marian, sources, limits, size), dtype
            )
            for size in AT_ONCE
        }
        runs["graphformer"] = cast(decode_all, dtype)
        *peers, own = compare(title, runs, rounds).values()
        rates = len(sources) / min(peers), len(sources) / own
        print(f"  sentences a second: Marian {rates[0]:.1f}, ours {rates[1]:.1f}")
        demands.append(Demand(f"decoding, {name}, time over Marian's", own / min(peers), 1 / 3))
    return demands


def cast(run: Callable[[], None], dtype: torch.dtype) -> Callable[[], None]:
    """`run` under autocast to this dtype, or as it is."""

    def run_cast() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            run()

    return run_cast


def by_us(model: Transformer, sources: list[Tensor], limits: list[int]) -> Callable[[], None]:
    """Batches as `graphformer translate predict` cuts them."""
    batches = runs_of(list(range(len(sources))), [len(source) for source in sources])

    def run() -> None:
        for batch in batches:
            found = beam_search(
                model,
                sequences([sources[at] for at in batch]),
                begin=START,
                end=-1,
                beam=BEAM,
                max_length=torch.tensor([limits[at] for at in batch]),
            )
            assert [len(each[0].ids) for each in found] == [limits[at] for at in batch]

    return run


def by_peer(
    decode: Callable[..., Tensor],
    model: Any,
    sources: list[Tensor],
    limits: list[int],
    at_once: int,
) -> Callable[[], None]:
    """Sentences of like length together; those of a batch go on to the longest of them."""
    batches = [
        range(start, min(start + at_once, len(sources)))
        for start in range(0, len(sources), at_once)
    ]

    def run() -> None:
        for batch in batches:
            source = nn.utils.rnn.pad_sequence([sources[at] for at in batch], batch_first=True)
            length = max(limits[at] for at in batch)
            found = decode(model, source, source == 0, BEAM, length)
            assert found.shape[1] == length + 1

    return run
