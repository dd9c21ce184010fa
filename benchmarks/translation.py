"""Training and decoding of a small translator, against torch's and Hugging Face's.

python benchmarks/translation.py [train] [decode] [--data_dir MULTI30K] [--rounds 3]

All train on the same batches of sentences and decode the same sentences to the same lengths. Data
is that of Multi30k (`tok/` of its task 1), or synthetic sentences as long as those. Weights are
random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import Demand, compare, in_fresh_process, peak_bytes, print_machine
from torch import Tensor, nn
from translation_peers import Padded, TorchTranslator, make_marian, search, search_marian

from graphformer import sequences
from graphformer.data.vocabulary import END, START, train_bpe
from graphformer.models.decode import beam_search
from graphformer.models.sequence import Size, Transformer
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.cross_entropy import summed_cross_entropy
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.translation.corpus import EncodedPair, PairBatch, collate, encode_pairs
from graphformer.tasks.translation.decoding import cut

VOCABULARY, BATCH_TOKENS, BEAM = 10_000, 4096, 5
SIZE = Size(dim=128, heads=4, layers=4, hidden=256, dropout=0.3)
# Batches of a round of training; synthetic sentences that are decoded.
STEPS, TEST = 6, 1000
# Sentences of like length that are decoded to one length; groups of them for what is slowest; and
# sentences that a peer decodes at once, of which the faster counts.
GROUP, FEW, AT_ONCE = 50, (6, 14), (50, 100)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["train", "decode"])
    parser.add_argument("--data_dir", type=Path, help="folder with tok/train.lc.norm.tok.en")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    # That norms in front keep it from its nested tensors, which are slower here.
    warnings.filterwarnings("ignore", "enable_nested_tensor")
    print_machine()
    train, test = read_pairs(given.data_dir)
    demands = []
    if "train" in given.parts:
        demands += training(train, given.rounds)
    if "decode" in given.parts:
        demands += decoding(test, given.rounds)
    print("\nDemands")
    for demand in demands:
        print(f"  {demand}")


# ---- sentences ----


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


# ---- training ----


def training(pairs: list[EncodedPair], rounds: int) -> list[Demand]:
    """Tokens a second, and memory of a step."""
    groups = batches_of(pairs)
    count = sum(len(pair.target) - 1 for group in groups for pair in group)
    demands = []
    for (name, dtype), limit in zip(DTYPES.items(), (1 / 2, 1 / 3), strict=True):
        runs = {
            "nn.Transformer, padded": trained_by_torch(groups, dtype),
            "graphformer, flat": trained_by_us(groups, dtype),
        }
        title = f"training, {len(groups)} steps, {count:,} target tokens, {name}"
        peer, ours = compare(title, runs, rounds).values()
        print(f"  tokens a second: nn.Transformer {count / peer:,.0f}, ours {count / ours:,.0f}")
        demands.append(Demand(f"training, {name}, time over nn.Transformer's", ours / peer, limit))
    largest = max(groups, key=lambda group: sum(len(pair.target) for pair in group))
    for name, dtype in DTYPES.items():
        held = [
            in_fresh_process(memory_of_step, make, pairs[:2], largest, dtype)[0]
            for make in (trained_by_torch, trained_by_us)
        ]
        theirs, ours = (f"{each / 1e6:.0f} MB" for each in held)
        print(f"\nmemory of a step, {name}: nn.Transformer {theirs}, ours {ours}")
        demands.append(
            Demand(f"memory of a step, {name}, over nn.Transformer's", held[1] / held[0], 1 / 2)
        )
    return demands


def batches_of(pairs: list[EncodedPair]) -> list[list[EncodedPair]]:
    """Pairs of like length together, by the longer side, spread over all lengths."""
    lengths = torch.tensor([max(len(source), len(target) - 1) for source, target in pairs])
    order = [batch.examples for batch in BatchOrder(lengths, BATCH_TOKENS, seed=0)]
    full = sorted(order, key=lambda batch: int(lengths[batch[0]]))
    picked = torch.linspace(0, len(full) - 1, STEPS).round().long().tolist()
    return [[pairs[index] for index in full[at]] for at in picked]


def trained_by_torch(groups: list[list[EncodedPair]], dtype: torch.dtype) -> Callable[[], object]:
    torch.manual_seed(0)
    model = TorchTranslator(VOCABULARY, SIZE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    batches = [padded(group) for group in groups]

    def run() -> None:
        for batch in batches:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = model.loss(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def trained_by_us(groups: list[list[EncodedPair]], dtype: torch.dtype) -> Callable[[], object]:
    torch.manual_seed(0)
    model = Transformer(VOCABULARY, SIZE).train()
    optimizer = fused_optimizer(torch.optim.Adam, model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    batches = [collate(group) for group in groups]

    def run() -> None:
        for batch in batches:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = our_loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def our_loss(model: Transformer, batch: PairBatch) -> Tensor:
    hidden = model.hidden(batch.source, batch.target)
    total = summed_cross_entropy(hidden, model.output_weight, batch.following, 0.1)
    return total / len(batch.following)


def memory_of_step(
    make: Callable[..., Callable[[], object]],
    few: list[EncodedPair],
    many: list[EncodedPair],
    dtype: torch.dtype,
) -> int:
    """Bytes that a step holds at its peak, above what the process held when it began.

    The optimizer has made its state by then, in a step of two sentences.
    """
    groups = [few]
    run = make(groups, dtype)
    run()
    closed = dict(zip(run.__code__.co_freevars, run.__closure__ or (), strict=True))
    batches: Any = closed["batches"].cell_contents
    batches[:] = [(padded if make is trained_by_torch else collate)(many)]
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return peak_bytes() - before


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text("utf-8")
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


# ---- decoding ----


def decoding(pairs: list[EncodedPair], rounds: int) -> list[Demand]:
    """Seconds to decode the test set with a beam, to lengths that are the same for all."""
    sources = sorted((pair.source for pair in pairs), key=len)
    lengths = [len(source) for source in sources]
    # Sentences of a group end together, so that no peer waits for a single long one.
    starts = [at - at % GROUP for at in range(len(lengths))]
    limits = [max(lengths[start : start + GROUP]) for start in starts]
    every = list(range(len(sources)))
    few = [at for at in every if at // GROUP in FEW]
    ours = Transformer(VOCABULARY, SIZE).eval()
    demands = []
    torch_model = TorchTranslator(VOCABULARY, SIZE).eval()
    runs = {
        f"nn.Transformer, no cache, {size} at once": by_peer(
            search, torch_model, sources, limits, few, size
        )
        for size in AT_ONCE[:1]
    }
    runs["graphformer"] = by_us(ours, sources, limits, few)
    title = f"decoding, {len(few)} sentences, beam {BEAM}, float32"
    *peers, own = compare(title, runs, 1).values()
    demands.append(
        Demand("decoding, time over nn.Transformer's without a cache", own / min(peers), 1 / 10)
    )
    try:
        marian = make_marian(VOCABULARY, SIZE)
    except ImportError as error:
        print(f"\nHugging Face's Marian is left out: {error}; pip install transformers")
        return demands
    runs = {
        f"Marian, with its cache, {size} at once": by_peer(
            search_marian, marian, sources, limits, every, size
        )
        for size in AT_ONCE
    }
    runs["graphformer"] = by_us(ours, sources, limits, every)
    title = f"decoding, {len(every)} sentences, beam {BEAM}, float32"
    *peers, own = compare(title, runs, rounds).values()
    print(
        f"  sentences a second: Marian {len(every) / min(peers):.1f}, ours {len(every) / own:.1f}"
    )
    demands.append(Demand("decoding, time over Marian's", own / min(peers), 1 / 3))
    return demands


def by_us(
    model: Transformer, sources: list[Tensor], limits: list[int], which: list[int]
) -> Callable[[], None]:
    """Batches as `graphformer translate predict` cuts them."""
    batches = cut(which, [len(source) for source in sources])

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
    which: list[int],
    at_once: int,
) -> Callable[[], None]:
    """Sentences of like length together; those of a batch go on to the longest of them."""
    batches = [which[start : start + at_once] for start in range(0, len(which), at_once)]

    def run() -> None:
        for batch in batches:
            source = nn.utils.rnn.pad_sequence([sources[at] for at in batch], batch_first=True)
            length = max(limits[at] for at in batch)
            found = decode(model, source, source == 0, BEAM, length)
            assert found.shape[1] == length + 1

    return run


if __name__ == "__main__":
    main()
