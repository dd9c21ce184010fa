"""Values on edges, brought into the order of a graph's edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphformer.layout import Layout
from graphformer.topology.edge_list import flat_ids
from graphformer.topology.paths import count_hops

if TYPE_CHECKING:
    from graphformer.graph import TokenGraph

# What was made of edge data by name and purpose, with the version of the data.
Kept = dict[tuple[str, str], tuple[tuple[int, ...], Tensor]]


class EdgeValues(NamedTuple):
    """Values on given edges, and what all other edges have.

    Attributes:
        edge_index: keys (row 0) and queries (row 1), ids of the batch's flat tokens without
            virtual ones.
        values: [edge] or [edge, dim]; None where only the edges matter.
        missing: what edges outside `edge_index` have: a number, a tensor [dim], or "mean", the
            mean over the given edges of the same query (zero where it has none).
    """

    edge_index: Tensor
    values: Tensor | None = None
    missing: float | Tensor | str = 0.0

    @property
    def known(self) -> Float[Tensor, "edge dim"]:
        """The values of edge data that `find` has found to have some."""
        assert self.values is not None
        return self.values


def version(given: EdgeValues) -> tuple[int, ...]:
    """What differs once the values were changed in place; of those of inference mode nothing."""
    tensors = [x for x in (given.values, given.missing) if isinstance(x, Tensor)]
    return tuple(-1 if each.is_inference() else each._version for each in tensors)


def keep(
    kept: Kept, place: tuple[str, str], value: EdgeValues, make: Callable[[], Tensor]
) -> Tensor:
    """What `make` makes of edge data, once; anew where they change or may want gradients.

    Args:
        kept: what was made before, and of which version.
        place: name of the data, and what is made of them.
        value: the data.
        make: makes it.
    """
    if requires_grad(value):
        return make()
    found = kept.get(place)
    if torch.compiler.is_compiling():
        # Compiled code reads what was planned.
        return make() if found is None else found[1]
    now = version(value)
    if found is None or found[0] != now:
        with torch.inference_mode(False):
            found = kept[place] = now, make()
    return found[1]


def hop_distance(
    edge_index: Int[Tensor, "2 edge"], largest: int = 8, num_nodes: int | None = None
) -> EdgeValues:
    """How many edges lead from each token to each other, as `HopBias` reads it.

    Zero from a token to itself; `largest` where the way is as long or longer; `largest` + 1 where
    there is none. It lists every pair with a way between them, as a complete graph does.

    Args:
        edge_index: keys (row 0) and queries (row 1) of the steps.
        largest: hops from which on they are no longer told apart.
        num_nodes: tokens of the batch; left out, as many as the edges name.

    Raises:
        ValueError: if `largest` is below 1, or the edges have another shape or type, or name
            tokens that there are not.

    Source: Ying et al. 2021, Graphormer (2106.05234), section 3.1.2.
    """
    edge_index = check("hops", EdgeValues(edge_index)).edge_index.long()
    if largest < 1:
        raise ValueError(f"hop_distance takes a largest distance of at least 1 hop, not {largest}")
    size = num_nodes
    if size is None:
        size = int(edge_index.max()) + 1 if edge_index.numel() else 0
    check_range(edge_index, size, size)
    pairs, counts = count_hops(edge_index, size)
    return EdgeValues(pairs, counts.clamp(max=largest).float(), float(largest + 1))


def check(name: str, given: EdgeValues | Tensor) -> EdgeValues:
    """Edge data with values [edge, dim], or an error that says what does not fit."""
    value = given if isinstance(given, EdgeValues) else EdgeValues(given)
    index = value.edge_index
    if not isinstance(index, Tensor) or index.dim() != 2 or index.shape[0] != 2:
        raise ValueError(
            f"edge data {name!r} needs an edge_index of shape [2, edge], it got "
            f"{_shape(index)}; write EdgeValues(edge_index, values)"
        )
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"edge data {name!r} needs integer ids, it got {index.dtype}")
    if isinstance(value.missing, str) and value.missing != "mean":
        raise ValueError(
            f"missing={value.missing!r} of edge data {name!r} is unknown; write a number, a tensor "
            "or 'mean'"
        )
    if value.values is None:
        return value
    if value.values.dim() not in (1, 2) or value.values.shape[0] != index.shape[1]:
        raise ValueError(
            f"edge data {name!r} has {index.shape[1]} edges but values of shape "
            f"{_shape(value.values)}; values are [edge] or [edge, dim], one row an edge"
        )
    tensors = (value.values, value.missing)
    for each in (each for each in tensors if isinstance(each, Tensor)):
        if each.device != index.device:
            raise ValueError(
                f"edge data {name!r} has edges on {index.device} and values on {each.device}: move "
                "both to one device"
            )
    values = value.values if value.values.dim() == 2 else value.values.unsqueeze(1)
    missing = value.missing
    if isinstance(missing, Tensor) and missing.shape not in ((), (1,), values.shape[1:]):
        raise ValueError(
            f"edge data {name!r} has {values.shape[1]} numbers an edge, missing has shape "
            f"{_shape(missing)}; write one number, or [{values.shape[1]}]"
        )
    return value._replace(values=values if values.is_floating_point() else values.float())


def check_range(edge_index: Int[Tensor, "2 edge"], num_queries: int, num_keys: int) -> None:
    """Raises an error that names the first id outside the tokens."""
    for row, (side, size) in enumerate((("key", num_keys), ("query", num_queries))):
        ids = edge_index[row]
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= size):
            worst = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise ValueError(
                f"edge_index[{row}] holds the {side} {worst}, but there are {size} {side} tokens, "
                f"0 to {size - 1}"
            )


def shift(name: str, value: EdgeValues, queries: Layout, keys: Layout) -> EdgeValues:
    """The same edge data with ids that count virtual tokens.

    Raises:
        ValueError: if an id lies outside, an edge joins two examples, or has two values.
    """
    key, query = flat_ids(value.edge_index.long(), queries, keys, f"edge data {name!r}")
    codes = torch.sort(query * keys.num_tokens + key).values
    repeated = int((codes.diff() == 0).sum()) if value.values is not None else 0
    if repeated:
        raise ValueError(
            f"edge data {name!r} names {repeated} edges twice, and which value they have is not "
            "said; merge them with torch_geometric.utils.coalesce, or keep repeats with "
            "TokenGraph.from_edge_index"
        )
    return value._replace(edge_index=torch.stack([key, query]))


def find(name: str, edge_data: Mapping[str, EdgeValues]) -> EdgeValues:
    """The edge data `name`, or an error that lists the names there are."""
    if name not in edge_data:
        known = ", ".join(repr(known) for known in edge_data) or "none"
        raise ValueError(
            f"the graph has no edge data {name!r} (it has: {known}); give it to "
            f"bind(tokens, {name}=EdgeValues(edge_index, values))"
        )
    value = edge_data[name]
    if value.values is None:
        raise ValueError(
            f"edge data {name!r} has edges but no values; bind it as "
            f"{name}=EdgeValues(edge_index, values)"
        )
    return value


def requires_grad(value: EdgeValues) -> bool:
    """Whether a value, or what is missing, is learned: then it changes, and its uses with it."""
    return any(isinstance(x, Tensor) and x.requires_grad for x in (value.values, value.missing))


def match(value: EdgeValues, graph: TokenGraph) -> Int[Tensor, "edge"]:
    """For each edge of the graph the given edge with the same ends, -1 where there is none."""
    num_keys = graph.keys.num_tokens
    codes, order = torch.sort(value.edge_index[1] * num_keys + value.edge_index[0])
    wanted = graph.edge_index[1] * num_keys + graph.edge_index[0]
    if not codes.numel():
        return torch.full_like(wanted, -1)
    place = torch.searchsorted(codes, wanted).clamp(max=codes.numel() - 1)
    return torch.where(codes[place] == wanted, order[place], -1)


def spread(
    value: EdgeValues, found: Int[Tensor, "edge"], graph: TokenGraph
) -> Float[Tensor, "edge dim"]:
    """The values of the graph's edges, given where each is found."""
    values = value.known
    if not values.shape[0]:
        values = values.new_zeros(1, values.shape[1])
    given = values.index_select(0, found.clamp(min=0))
    if isinstance(value.missing, str):
        missing = mean_of_query(value, graph.queries.num_tokens)
        missing = missing.index_select(0, graph.edge_index[1])
    else:
        missing = torch.as_tensor(value.missing, dtype=values.dtype, device=values.device)
    return torch.where((found < 0).unsqueeze(1), missing, given)


def mean_of_query(value: EdgeValues, num_queries: int) -> Float[Tensor, "query dim"]:
    """The mean of the given values of each query; zero where it has none."""
    query = value.edge_index[1]
    total = value.known.new_zeros(num_queries, value.known.shape[1])
    total = total.index_add(0, query, value.known)
    count = torch.bincount(query, minlength=num_queries).clamp(min=1)
    return total / count.unsqueeze(1)


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
