"""Training and decoding of a small translator, against torch's and Hugging Face's.

python benchmarks/translation.py [train] [decode] [--data_dir MULTI30K] [--rounds 3]

All train on the same batches of sentences and decode the same sentences to the same lengths. Data
is that of Multi30k (`tok/` of its task 1), or synthetic sentences as long as those. Weights are
random: time does not depend on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import Demand, compare, in_fresh_process, peak_bytes, print_machine
from torch import Tensor
from translation_decoding import decoding
from translation_peers import TorchTranslator
from translation_text import DTYPES, SIZE, VOCABULARY, padded, read_pairs

from graphformer.models.sequence import Transformer
from graphformer.tasks.batches import BatchOrder
from graphformer.tasks.cross_entropy import summed_cross_entropy
from graphformer.tasks.optimizers import fused_optimizer
from graphformer.tasks.translation.corpus import EncodedPair, PairBatch, collate, lengths_of

BATCH_TOKENS = 4096
# Batches of a round of training.
STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["train", "decode"])
    parser.add_argument("--data_dir", type=Path, help="folder with tok/train.lc.norm.tok.en")
    parser.add_argument(
        "--rounds", type=int, default=3, help="calls of each, but one of what has no cache"
    )
    given = parser.parse_args()
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
    """Pairs of like length together, as `translate fit` batches them, spread over all lengths."""
    lengths = lengths_of(pairs)
    order = [batch.examples for batch in BatchOrder(lengths, BATCH_TOKENS, seed=0)]
    full = sorted(order, key=lambda batch: int(lengths[batch[0]].max()))
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


if __name__ == "__main__":
    main()
