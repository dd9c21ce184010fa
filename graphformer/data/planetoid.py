"""Cora, CiteSeer and PubMed: papers, their words and their citations, with the public split."""

from __future__ import annotations

import collections
import copyreg
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch_geometric.datasets import Planetoid

from graphformer.data.graph_data import GraphData, check_graph, clean_edges
from graphformer.data.published_files import check_name, find_or_download

PLANETOID = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_NUM_VALIDATION = 500

# Where it lives differs between versions of NumPy; an array's own pickle names it.
_reconstruct = np.empty(0).__reduce__()[0]

# All that the published pickles name; the modules are those of Python 2 and of old libraries.
_ADMITTED = {
    ("__builtin__", "list"): list,
    ("__builtin__", "object"): object,
    ("collections", "defaultdict"): collections.defaultdict,
    ("copy_reg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("scipy.sparse.csr", "csr_matrix"): sparse.csr_matrix,
}


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays, sparse matrices and lists, and calls nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no published file does")
        return _ADMITTED[module, name]


def planetoid(name: str, data_dir: str | Path | None = None) -> GraphData:
    """The graph `name` with its public split: 20 nodes a class, 500 to validate, 1,000 to test.

    The published files are pickles; they are read by an unpickler that admits arrays and sparse
    matrices alone. The graph is that of `torch_geometric.datasets.Planetoid`; features are
    counts or weights as published, rows not normalized.

    Args:
        name: "cora", "citeseer" or "pubmed".
        data_dir: folder with the eight files `ind.NAME.*` (or with them in `planetoid/`,
            `Cora/raw/` or `raw/`); None downloads them to the user's cache.

    Raises:
        ValueError: the name is unknown, or a file is truncated or not as published.
        FileNotFoundError: no files, and no network to get them.

    Source: Yang et al., Revisiting semi-supervised learning with graph embeddings, 2016
    (arXiv 1603.08861).
    """
    check_name(name, tuple(PLANETOID), "Planetoid")
    files = [f"ind.{name}.{part}" for part in _PARTS]
    folders = ("planetoid", f"{PLANETOID[name]}/raw", "raw")
    folder = find_or_download(files, data_dir, folders, Planetoid.url)
    parts = {part: _read_part(folder / f"ind.{name}.{part}") for part in _PARTS}
    try:
        return check_graph(_assemble(name, parts))
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{folder}: the files ind.{name}.* do not fit together: {error}"
        ) from error


def _read_part(path: Path) -> Any:
    """A dense tensor, or the neighbors of each node (`graph`)."""
    try:
        if path.suffix == ".index":
            return torch.from_numpy(np.loadtxt(path, dtype=np.int64, ndmin=1))
        with path.open("rb") as file:
            part = _ArraysOnly(file, encoding="latin1").load()
        if sparse.issparse(part):
            part.check_format(full_check=True)
            part = part.toarray()
        return part if isinstance(part, dict) else torch.from_numpy(part.astype(np.float32))
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        KeyError,
    ) as error:
        raise ValueError(f"{path} is truncated or not as published: {error}") from error


def _assemble(name: str, parts: dict[str, Any]) -> GraphData:
    """The graph of the parts: `allx` in order, then the test nodes, which `tx` has shuffled."""
    test_ids = parts["test.index"]
    num_labeled, num_train = len(parts["allx"]), len(parts["y"])
    # Some test ids of CiteSeer are missing: isolated nodes without words, of class 0 by custom.
    num_nodes = max(num_labeled, int(test_ids.max()) + 1)
    x = torch.zeros(num_nodes, parts["allx"].shape[1])
    x[:num_labeled] = parts["allx"]
    x[test_ids] = parts["tx"]
    one_hot = torch.zeros(num_nodes, parts["ally"].shape[1])
    one_hot[:num_labeled] = parts["ally"]
    one_hot[test_ids] = parts["ty"]
    masks = torch.zeros(3, 1, num_nodes, dtype=torch.bool)
    masks[0, 0, :num_train] = True
    masks[1, 0, num_train : num_train + _NUM_VALIDATION] = True
    masks[2, 0, test_ids] = True
    # The files list both directions; what they list is what others train on.
    edge_index = clean_edges(
        _list_edges(parts["graph"]), num_nodes, source=f"ind.{name}.graph", directed=True
    )
    return GraphData(
        x,
        edge_index,
        one_hot.argmax(dim=1),
        masks[0],
        masks[1],
        masks[2],
        name=f"{name}, public split",
        num_classes=one_hot.shape[1],
        class_names=tuple(map(str, range(one_hot.shape[1]))),
    )


def _list_edges(neighbors: dict[int, list[int]]) -> Tensor:
    pairs = [(node, other) for node, others in neighbors.items() for other in others]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
