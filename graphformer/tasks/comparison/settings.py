"""What `graphformer compare` can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from graphformer.tasks.settings import check_least, check_positive

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Sizes:
    """The attention that is measured.

    Attributes:
        lengths: tokens of an example; everything is measured at each of these lengths.
        batch: number of examples, all equally long.
        heads: number of heads.
        dim: dimension of a head.
        dtype: float32, float64, bfloat16 or float16.
    """

    lengths: list[int] = field(default_factory=lambda: [512, 2048])
    batch: int = 1
    heads: int = 4
    dim: int = 32
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("lengths is empty: write at least one number of tokens, such as [512]")
        if min(self.lengths) < 2:
            raise ValueError(
                f"lengths has {min(self.lengths)}: attention is compared over at least 2 tokens"
            )
        check_least(self, batch=1, heads=1, dim=1)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}: write one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Graphs:
    """Who attends to whom, and how strongly, in the library's notation.

    Attributes:
        topologies: such as "causal()" or "window(16) | global_tokens(1)". A letter n, as in
            "window(n)", stands for the number that gives each of the densities; edges("random"),
            edges("power_law") and edges("blocks") are drawn at each of them.
        densities: shares of the pairs of tokens that are edges, above 0 and up to 1.
        score: such as "DotProduct()" or "DotProduct() + ALiBi(4)".
    """

    topologies: list[str] = field(
        default_factory=lambda: ["window(n)", 'edges("random")', "causal()"]
    )
    densities: list[float] = field(default_factory=lambda: [0.003, 0.01, 0.03, 0.15, 0.5])
    score: str = "DotProduct()"

    def __post_init__(self) -> None:
        if not self.topologies:
            raise ValueError(
                "topologies is empty: write at least one to compare with the complete graph, such "
                'as ["window(n)"]'
            )
        wrong = [density for density in self.densities if not 0 < density <= 1]
        if wrong or not self.densities:
            raise ValueError(
                f"densities is {self.densities}: write shares of all pairs, above 0 and up to 1, "
                "such as [0.01, 0.1]"
            )


@dataclass(frozen=True)
class Timing:
    """How it is measured.

    Attributes:
        repeats: calls of each backend on each graph, of which the median counts.
        seconds: time after which a call is not repeated further.
        patience: seconds that a single call may take by the planner's prediction; slower backends
            are left out, unless the planner chose them.
        threads: threads on the CPU; torch's own number if left out.
    """

    repeats: int = 5
    seconds: float = 0.3
    patience: float = 1.0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_least(self, repeats=1, threads=1)
        check_positive(self, "seconds", "patience")
