"""The sinusoidal encoding is the Laplacian encoding of a cycle.

python examples/laplacian_of_a_cycle.py --nodes 60 --waves 3 --out plots
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from graphformer.positions import laplacian, sinusoidal


def encode_cycle(num_nodes: int, num_waves: int) -> tuple[Tensor, Tensor]:
    """Both encodings of a cycle, [node, 2 * num_waves] each."""
    nodes = torch.arange(num_nodes)
    cycle = torch.stack([nodes, (nodes + 1) % num_nodes])
    eigenvectors = laplacian(cycle, num_nodes, k=2 * num_waves)
    radians_a_node = 2 * torch.pi * torch.arange(1, num_waves + 1) / num_nodes
    waves = sinusoidal(nodes, dim=2 * num_waves, frequencies=radians_a_node)
    return eigenvectors, waves


def express(waves: Tensor, eigenvectors: Tensor) -> Tensor:
    """The best approximation of the waves as sums of eigenvectors (least squares)."""
    return eigenvectors @ torch.linalg.lstsq(eigenvectors, waves).solution


def draw(eigenvectors: Tensor, waves: Tensor, fitted: Tensor, out: Path) -> Path:
    """A picture of both encodings, one row a wave, saved in `out`."""
    import matplotlib.pyplot as plt

    num_waves = waves.shape[1] // 2
    figure, axes = plt.subplots(
        num_waves, 2, figsize=(9, 2 * num_waves), sharex=True, squeeze=False
    )
    for wave, (left, right) in enumerate(axes):
        pair = slice(2 * wave, 2 * wave + 2)
        left.plot(eigenvectors[:, pair])
        right.plot(waves[:, pair])
        right.plot(fitted[:, pair], linestyle="none", marker=".", color="black")
        left.set_ylabel(f"{wave + 1} around")
    axes[0, 0].set_title("eigenvectors of the Laplacian")
    axes[0, 1].set_title("sine and cosine; dots: sums of eigenvectors")
    for axis in axes[-1]:
        axis.set_xlabel("node of the cycle")
    out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(out / "laplacian_of_a_cycle.png", dpi=120)
    return out / "laplacian_of_a_cycle.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=60, help="nodes of the cycle")
    parser.add_argument("--waves", type=int, default=3, help="waves around it, from the slowest")
    parser.add_argument("--out", type=Path, help="folder for a picture")
    parser.add_argument("--quick", action="store_true", help="changes nothing: it is quick")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    eigenvectors, waves = encode_cycle(arguments.nodes, arguments.waves)
    fitted = express(waves, eigenvectors)
    for wave in range(arguments.waves):
        pair = slice(2 * wave, 2 * wave + 2)
        residual = (fitted - waves)[:, pair].abs().max().item()
        print(f"{wave + 1} around: largest residual {residual:.1e}")
    if arguments.out is not None:
        print(f"picture: {draw(eigenvectors, waves, fitted, arguments.out)}")


if __name__ == "__main__":
    main()
