"""PyG's `GATv2Conv` on our backends."""

from __future__ import annotations

from typing import Any

import torch_geometric.nn
from torch import Tensor

from graphformer.nn.drop_in import DropIn, bound, eager, sums
from graphformer.nn.linear_maps import mapped, may_map
from graphformer.nn.looped import edge_features, ends_of, finish, with_weights
from graphformer.nn.scores import gatv2


class GATv2Conv(DropIn, torch_geometric.nn.GATv2Conv):
    """`torch_geometric.nn.GATv2Conv`, whose sums q + k + W e are never in memory.

    Source: Brody et al. 2022 (2105.14491), equation 7.
    """

    @eager
    def forward(
        self,
        x: Any,
        edge_index: Any,
        edge_attr: Any = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """What PyG's layer gives for the same arguments; see there."""
        memory, target = (x, x) if isinstance(x, Tensor) else x
        of_edge = edge_attr is not None
        ends = ends_of(self, (memory, target), edge_index, edge_attr, None)
        if ends is None or target is None or (of_edge and self.lin_edge is None):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)

        size = (-1, self.heads, self.out_channels)
        query, value = (part.view(size) for part in self._project(memory, target))
        graph, edge_weight = bound(edge_index, ends), None
        if of_edge:
            features = edge_features(self, edge_index, edge_attr, ends)
            if may_map(self.lin_edge, features):
                edge_weight = self.lin_edge.weight.view(self.heads, self.out_channels, -1)
            graph = graph.with_edge_data(
                edge=features if edge_weight is not None else self.lin_edge(features)
            )
        score = gatv2(self.att[0], self.negative_slope, of_edge, edge_weight)
        dropout = self.dropout if self.training else 0.0
        asked = {"dropout": dropout, "return_weights": bool(return_attention_weights)}
        out, _, weights = sums((query, value, value), graph, score, **asked)
        out = finish(self, out, target)
        return out if weights is None else with_weights(out, edge_index, ends, weights)

    def _project(self, memory: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and values."""
        if target is not memory:
            return mapped(target, self.lin_r)[0], mapped(memory, self.lin_l)[0]
        if self.share_weights:
            value = mapped(memory, self.lin_l)[0]
            return value, value
        query, value = mapped(memory, self.lin_r, self.lin_l)
        return query, value
