"""The slowest waves of a connected graph: eigenvectors of the smallest eigenvalues above 0."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import scipy.linalg
from scipy import sparse
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh, splu

# Nodes up to which the dense solver takes no more than a few hundredths of a second.
_DENSE = 500
# Restarts after which Lanczos is given up: the eigenvalues lie too close, as on a long cycle.
_RESTARTS = 50
# Where Lanczos must start anew, scipy 1.17 and later draw from entropy unless told otherwise.
_SEEDED = {"rng": 0} if "rng" in inspect.signature(eigsh).parameters else {}

Apply = Callable[[np.ndarray], np.ndarray]


def slowest_waves(adjacency: sparse.csr_array, k: int, normalization: str) -> np.ndarray:
    """Eigenvectors of the `k` smallest eigenvalues above 0 of the Laplacian, [node, k].

    Each has length 1, and the first of its largest entries is positive.

    Args:
        adjacency: a connected, symmetric graph of ones without self loops.
        k: how many, fewer than nodes.
        normalization: "symmetric", "random_walk" or "none".
    """
    degree = adjacency.sum(axis=1)
    scale = np.ones_like(degree) if normalization == "none" else degree**-0.5
    scaling = sparse.diags_array(scale)
    matrix = (scaling @ (sparse.diags_array(degree) - adjacency) @ scaling).tocsr()
    if len(degree) <= max(_DENSE, 2 * k):
        _, waves = scipy.linalg.eigh(matrix.toarray(), subset_by_index=[1, k])
    else:
        waves = _iterate(matrix, scale, k)
    if normalization == "random_walk":
        waves = waves * scale[:, None]
        waves = waves / np.linalg.norm(waves, axis=0)
    return waves * _signs(waves)


def _iterate(matrix: sparse.csr_array, scale: np.ndarray, k: int) -> np.ndarray:
    """The eigenvectors by Lanczos: of the Laplacian, or where that is slow, of its inverse.

    The first needs products alone; the second a factorization, which is cheap just where
    eigenvalues are close: on cycles, grids and road maps.
    """
    # The eigenvector of 0 is known. Both operators send it to 0, out of the way.
    constant = 1 / scale / np.linalg.norm(1 / scale)
    bound = 2 * matrix.diagonal().max()

    def reversed_order(x: np.ndarray) -> np.ndarray:
        moved: np.ndarray = bound * (x - constant * (constant @ x)) - matrix @ x
        return moved

    try:
        return _largest(reversed_order, len(scale), k, _RESTARTS)
    except ArpackError:
        return _largest(_pseudo_inverse(matrix, constant), len(scale), k, None)


def _pseudo_inverse(matrix: sparse.csr_array, constant: np.ndarray) -> Apply:
    """Multiplication with the pseudo-inverse of a Laplacian."""
    # It is regular without its last row and column; that node's value is then free.
    solver = splu(
        matrix[:-1, :-1].tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )

    def apply(x: np.ndarray) -> np.ndarray:
        x = x - constant * (constant @ x)
        solved = np.append(solver.solve(x[:-1]), 0.0)
        return solved - constant * (constant @ solved)

    return apply


def _largest(apply: Apply, size: int, k: int, restarts: int | None) -> np.ndarray:
    """Eigenvectors of the `k` largest eigenvalues of a positive operator, largest first.

    Lanczos may overlook copies of a repeated eigenvalue, and symmetric graphs have many. So it
    searches again beside what it found, until nothing larger is left.
    """
    random = np.random.default_rng(0)
    values, vectors = np.zeros(0), np.zeros((size, 0))
    while True:
        found_values, found = _lanczos(
            _beside(vectors, apply), random.standard_normal(size), k, restarts
        )
        if len(values) and found_values.max() <= values.min() * (1 + 1e-12):
            return vectors
        values = np.concatenate([values, found_values])
        largest = np.argsort(-values, kind="stable")[:k]
        values = values[largest]
        vectors = np.concatenate([vectors, found], axis=1)[:, largest]


def _beside(known: np.ndarray, apply: Apply) -> Apply:
    """The operator with its known eigenvectors sent to 0."""

    def apply_beside(x: np.ndarray) -> np.ndarray:
        moved = apply(x - known @ (known.T @ x))
        rest: np.ndarray = moved - known @ (known.T @ moved)
        return rest

    return apply_beside


def _lanczos(
    apply: Apply, start: np.ndarray, k: int, restarts: int | None
) -> tuple[np.ndarray, np.ndarray]:
    size = len(start)
    operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
    width = min(size, max(4 * k, 60))
    values, vectors = eigsh(
        operator, k, which="LA", v0=start, ncv=width, maxiter=restarts, **_SEEDED
    )
    return values, vectors


def _signs(waves: np.ndarray) -> np.ndarray:
    """The sign of the first of the largest entries of each column.

    Entries count as equally large within 1 in 10,000: symmetric graphs have many that differ by
    rounding alone, and rounding may not choose among them.
    """
    size = np.abs(waves)
    first = (size > 0.9999 * size.max(axis=0)).argmax(axis=0)
    return np.sign(waves[first, np.arange(waves.shape[1])])
