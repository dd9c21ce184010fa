"""PyG's `GATConv` on our backends."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graphformer.nn.drop_in import DropIn, bound, eager, sums
from graphformer.nn.linear_maps import is_plain, mapped
from graphformer.nn.looped import edge_features, ends_of, finish, with_weights
from graphformer.nn.scores import terms


class GATConv(DropIn, torch_geometric.nn.GATConv):
    """`torch_geometric.nn.GATConv`, never edges x heads x dim.

    The score of an edge is a sum of numbers, one a head of the query, of the key and, where there
    are edge features, of these: a . W e = (W^T a) . e.

    Source: Velickovic et al. 2018 (1710.10903), equations 3 to 6.
    """

    @eager
    def forward(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Any = None,
        size: Any = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """What PyG's layer gives for the same arguments; see there."""
        memory, target = (x, x) if isinstance(x, Tensor) else x
        of_edge = edge_attr is not None and self.lin_edge is not None
        ends = ends_of(self, (memory, target), edge_index, edge_attr, size)
        # Later versions of PyG can normalize the weights once more.
        if ends is None or (of_edge and not is_plain(self.lin_edge)) or vars(self).get("normalize"):
            return super().forward(x, edge_index, edge_attr, size, return_attention_weights)

        value, query, key = self._project(memory, target)
        graph = bound(edge_index, ends)
        if of_edge:
            features = edge_features(self, edge_index, edge_attr, ends)
            graph = graph.with_edge_data(edge=self._edge_term(features))
        score = terms(self.negative_slope, query is not None, of_edge)
        dropout = self.dropout if self.training else 0.0
        asked = {"dropout": dropout, "return_weights": bool(return_attention_weights)}
        out, _, weights = sums((query, key, value), graph, score, **asked)
        out = finish(self, out, target)
        return out if weights is None else with_weights(out, edge_index, ends, weights)

    def _project(
        self, memory: Tensor, target: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Values [key, head, dim], and the terms of queries and keys, [token, head, 1]."""
        size = (-1, self.heads, self.out_channels)
        value = mapped(memory, self.lin or self.lin_src)[0].view(size)
        if target is None:
            return value, None, _term(value, self.att_src)
        if target is memory and self.lin is not None:
            both = _term(value, torch.cat([self.att_dst, self.att_src]))
            query, key = both.split(self.heads, 1)
            return value, query, key
        received = mapped(target, self.lin or self.lin_dst)[0].view(size)
        return value, _term(received, self.att_dst), _term(value, self.att_src)

    def _edge_term(self, features: Float[Tensor, "edge dim"]) -> Float[Tensor, "edge head"]:
        weight = self.lin_edge.weight.view(self.heads, self.out_channels, -1)
        return F.linear(features, torch.einsum("hde,hd->he", weight, self.att_edge[0]))


def _term(
    x: Float[Tensor, "token head dim"], weight: Float[Tensor, "part head dim"]
) -> Float[Tensor, "token part_head 1"]:
    """What each head says of a token, the products of the first part before those of the second."""
    if torch.is_autocast_enabled(x.device.type):
        # A product of matrices would be rounded to 16 bits.
        return torch.cat([(x * part).sum(-1, keepdim=True) for part in weight], 1)
    # One product of matrices, since sums of elementwise products go through memory five times.
    eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    spread = weight.permute(1, 2, 0).unsqueeze(-1) * eye.view(len(eye), 1, 1, -1)
    return (x.flatten(1) @ spread.reshape(x.shape[1] * x.shape[2], -1)).unsqueeze(-1)
