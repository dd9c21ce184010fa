"""Tokens and positions refuse what they cannot mean, and say what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data, HeteroData

from graphformer.positions import (
    Degree,
    Learned,
    degrees,
    laplacian,
    random_walk,
    sinusoidal,
    time_features,
)
from graphformer.tokens import nodes, patches, sequences, series

pytestmark = pytest.mark.usefixtures("unchecked")

PAIR = torch.tensor([[0], [1]])
TWO = sequences([torch.randn(3, 2), torch.randn(2, 2)])
NAN = torch.tensor([1.0, torch.nan])[:, None]


def refused(function: Callable[..., object], *args: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*args)
    return str(caught.value)


def matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


SEQUENCES = {
    "empty list": (([],), "empty list: a batch needs at least one example"),
    "no example": ((torch.zeros(0, 4, dtype=torch.long),), "needs at least one example"),
    "no tensor": (([torch.zeros(2, 1), [1]],), "example 1 is a list: write torch.tensor"),
    "axes of an example": (
        ([torch.zeros(2, 1, 1)],),
        r"example 0 of shape \(2, 1, 1\).*\[length\]",
    ),
    "axes of a padded tensor": ((torch.zeros(4),), r"shape \(4,\).*\[example, longest\]"),
    "widths": (
        ([torch.zeros(1, 2), torch.zeros(1, 3)],),
        r"shapes.*\(2,\) in example 0, \(3,\) in",
    ),
    "dtypes": (
        ([torch.zeros(1, 2), torch.zeros(1, 2).half()],),
        "dtypes.*float32.*float16.*example 1",
    ),
    "devices": (([torch.zeros(1, 2), torch.zeros(1, 2, device="meta")],), "devices: cpu.*meta"),
    "ids and vectors": (
        ([torch.zeros(1, 2), torch.zeros(1)],),
        r"shapes.*\(2,\) in example 0, \(\)",
    ),
    "bare numbers": (([torch.zeros(3)],), r"neither an id nor a vector.*example\[\.\.\., None\]"),
    "one of vectors": ((torch.zeros(5, 4),), r"shape \(5, 4\).*write sequences\(\[x\]\)"),
    "lengths of a list": (([torch.zeros(1, 2)], [1]), "takes lengths beside a padded tensor only"),
    "number of lengths": ((torch.zeros(2, 3, 1), [1]), "1 lengths for 2 examples"),
    "too long": ((torch.zeros(2, 3, 1), [1, 4]), "length 4 for example 1.*0 to 3"),
    "negative": ((torch.zeros(2, 3, 1), [-1, 2]), "length -1 for example 0"),
    "a mask": ((torch.zeros(2, 3, 1), torch.ones(2, 3).bool()), r"torch.bool.*mask\.sum\(1\)"),
    "NaN": (([torch.zeros(2, 1), NAN],), r"NaN, first in example 1 at token 1.*nan_to_num"),
}


@pytest.mark.parametrize(("args", "message"), SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_refuse(args: tuple[Any, ...], message: str) -> None:
    assert matches(message, refused(sequences, *args))


IMAGES = {
    "no image": (([], 2), "no image"),
    "no image in a tensor": ((torch.zeros(0, 1, 2, 2), 2), "no image"),
    "axes": ((torch.zeros(1, 2, 2), 2), r"\(1, 2, 2\).*\[image, channel, height, width\]"),
    "axes in a list": (([torch.zeros(2, 2)], 2), r"image 0 of shape \(2, 2\)"),
    "no tensor": (([np.zeros((1, 2, 2))], 2), "image 0 is a ndarray"),
    "size": ((torch.zeros(1, 1, 2, 2), 0), "at least 1 pixel"),
    "remainder": ((torch.zeros(1, 1, 30, 32), 16), "crop it to 16 x 32, or pad it to 32 x 32"),
    "channels": (([torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)], 2), r"shapes.*\(4,\).*\(12,\)"),
    "NaN": ((torch.full((1, 1, 2, 2), torch.nan), 2), "NaN, first in example 0 at token 0"),
}


@pytest.mark.parametrize(("args", "message"), IMAGES.values(), ids=IMAGES)
def test_patches_refuse(args: tuple[Any, ...], message: str) -> None:
    assert matches(message, refused(patches, *args))


WINDOW = torch.zeros(2, 10, 3)
SERIES = {
    "axes": ((WINDOW[0],), r"\(10, 3\).*values\[None\]"),
    "no window": ((WINDOW[:0],), "at least one example"),
    "unknown": ((WINDOW, "step"), "token='step'.*'variate', 'patch', 'time'"),
    "useless patch": ((WINDOW, "time", 4), 'write token="patch"'),
    "no patch": ((WINDOW, "patch"), "write patch=16"),
    "small patch": ((WINDOW, "patch", 4, 0), "stride=0: both are at least 1"),
    "large patch": ((WINDOW, "patch", 11), "patch=11 for windows of 10 time steps"),
    "remainder": ((WINDOW, "patch", 4), r"leave 2 over. Drop the first 2.*last value 2 times"),
    "NaN": ((WINDOW.index_fill(2, torch.tensor([1]), torch.nan),), "first in example 0 at token 1"),
}


@pytest.mark.parametrize(("args", "message"), SERIES.values(), ids=SERIES)
def test_series_refuses(args: tuple[Any, ...], message: str) -> None:
    assert matches(message, refused(series, *args))


def named(**attributes: Any) -> networkx.Graph:
    graph = networkx.Graph()
    graph.add_node("first", weight=[1.0])
    graph.add_node("second", **attributes)
    return graph


BATCH = Batch.from_data_list([Data(x=torch.zeros(2, 1)), Data(x=torch.zeros(1, 1))])
NODES = {
    "no features": ((Data(edge_index=PAIR),), "set data.x, for instance"),
    "axes": ((Data(x=torch.zeros(2, 1, 1)),), r"data.x of torch.float32 and shape \(2, 1, 1\)"),
    "bare numbers": ((Data(x=torch.zeros(2)),), r"values \[node, dim\] or integer ids"),
    "sparse": ((Data(x=torch.eye(2).to_sparse()),), "data.x.to_dense"),
    "NaN": ((Data(x=NAN),), "first in example 0 at token 1"),
    "a list": (([Data()],), r"not a list: of several graphs, write Batch.from_data_list"),
    "types of nodes": ((HeteroData(),), "to_homogeneous"),
    "unsorted": ((Data(x=torch.zeros(2, 1), batch=torch.tensor([1, 0])),), "sort the nodes"),
    "lost nodes": ((BATCH.clone().update({"x": torch.zeros(2, 1)}),), "2 nodes in a batch of 3"),
    "attributes of Data": ((Data(x=NAN), ["x"]), "of a networkx graph only"),
    "no node": ((networkx.Graph(), ["weight"]), "without nodes"),
    "no attribute named": ((named(weight=[2.0]),), r"list those that make x.*\['weight'\]"),
    "one name": ((named(weight=[2.0]), "weight"), "attributes='weight'"),
    "missing attribute": ((named(color=1), ["weight"]), "no attribute 'weight' at node 'second'"),
    "text": ((named(weight="red"), ["weight"]), "'weight' of node 'second' is 'red'"),
    "widths": ((named(weight=[1, 2]), ["weight"]), "2 numbers at node 'second' and 1 at the first"),
}


@pytest.mark.parametrize(("args", "message"), NODES.values(), ids=NODES)
def test_nodes_refuse(args: tuple[Any, ...], message: str) -> None:
    assert matches(message, refused(nodes, *args))


def test_tokens_refuse_values_that_do_not_fit() -> None:
    message = refused(TWO.with_x, torch.zeros(4, 2))
    assert matches(r"shape \(4, 2\) for 5 tokens", message)
    virtual = [(-1, None), (1, torch.zeros(1, 3)), (1, torch.zeros(1, 2, dtype=torch.float64))]
    needed = ["n=-1", r"\(1, 3\).*need \(1, 2\)", r"float64.*float32.*x\.to\(tokens\.x\)"]
    for (n, x), pattern in zip(virtual, needed, strict=True):
        assert matches(pattern, refused(TWO.with_virtual, n, x))


ENCODINGS = [(laplacian, 2), (random_walk, 2), (degrees,)]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding[0].__name__)
def test_encodings_of_a_graph_refuse_edges_that_do_not_fit(encoding: tuple[Any, ...]) -> None:
    function, *rest = encoding

    def message(edge_index: torch.Tensor) -> str:
        return refused(function, edge_index, TWO.with_virtual(1), *rest)

    name = function.__name__
    assert matches(f"{name} got edges of torch.float32 and shape", message(torch.zeros(2, 1)))
    assert matches(
        r"shape \(3, 1\): give integer ids \[2, edge\]", message(torch.tensor([[0]] * 3))
    )
    outside = torch.tensor([[0, 4], [1, 5]])
    assert matches("edge 1 from 4 to 5, and there are 5 tokens", message(outside))
    assert matches("edge 0 from -1 to 0", message(torch.tensor([[-1], [0]])))
    across = torch.tensor([[0, 2], [1, 3]])
    assert matches("edge 1 from example 0 to example 1", message(across))


def test_encodings_refuse_sizes_that_make_no_sense() -> None:
    assert matches("dim=3.*even", refused(sinusoidal, torch.arange(2), 3))
    half = torch.ones(3)
    assert matches(r"\(3,\): dim=4 columns need \[2\]", refused(sinusoidal, half, 4, 10.0, half))
    assert matches("k=0: give at least 1", refused(laplacian, PAIR, 2, 0))
    assert matches("'sym': use one of", refused(laplacian, PAIR, 2, 1, "sym"))
    assert matches("steps=0: give at least 1", refused(random_walk, PAIR, 2, 0))
    assert matches("largest=-1", refused(Degree, -1, 4))


def test_learned_positions_refuse_those_without_a_vector() -> None:
    learned = Learned(4, 2, num_virtual=1)
    for outside in (4, -2):
        positions = torch.tensor([0, outside])
        needed = (
            "num_positions=5, num_virtual=1" if outside == 4 else "num_positions=4, num_virtual=2"
        )
        assert matches(f"vectors for -1 to 3.*{needed}", refused(learned, positions))


TIMES = {
    "frequency": ((["2020-01-01"], "h"), "frequency='h': use one of"),
    "text": ((["tomorrow"],), "ISO 8601.*tomorrow"),
    "time zone": ((["2020-01-01T00:00:00Z"],), "without a zone"),
    "missing": ((np.array(["2020-01-01", "NaT"], "datetime64[D]"),), "NaT.* at index 1"),
}


@pytest.mark.parametrize(("args", "message"), TIMES.values(), ids=TIMES)
def test_time_features_refuse(args: tuple[Any, ...], message: str) -> None:
    assert matches(message, refused(time_features, *args))
