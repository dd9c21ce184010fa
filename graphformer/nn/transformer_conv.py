"""PyG's `TransformerConv` on our backends."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor

from graphformer.nn.drop_in import DropIn, Ends, bound, eager, fits, is_ours, sums
from graphformer.nn.linear_maps import mapped, may_map, plus_map
from graphformer.nn.scores import EDGE, edge_dot
from graphformer.scores import DotProduct

_DOT_PRODUCT = DotProduct()


class TransformerConv(DropIn, torch_geometric.nn.TransformerConv):
    """`torch_geometric.nn.TransformerConv`, never edges x heads x dim.

    Edge features meet W^T q and leave as a sum for each query: q . (k + W e) = q . k + (W^T q) . e,
    and sum of a (v + W e) = sum of a v + W sum of a e.

    Source: Shi et al. 2021, UniMP (2009.03509), equations 3 to 5.
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
        weighs = isinstance(return_attention_weights, bool)
        if not self._is_ours(memory, target, edge_index, edge_attr, weighs):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)
        ends = Ends(memory.shape[0], target.shape[0])
        if not fits(ends, edge_index):
            return super().forward(x, edge_index, edge_attr, return_attention_weights)
        graph = bound(edge_index, ends)

        size = (-1, self.heads, self.out_channels)
        query, key, value = (part.view(size) for part in self._project(memory, target))
        dropout = self.dropout if self.training else 0.0
        asked: dict[str, Any] = {"dropout": dropout, "return_weights": weighs}
        if self.lin_edge is None:
            out, _, weights = sums((query, key, value), graph, _DOT_PRODUCT, **asked)
        else:
            weight = self.lin_edge.weight.view(self.heads, self.out_channels, -1)
            graph = graph.with_edge_data(edge=edge_attr)
            asked["edge_sum"] = EDGE
            out, summed, weights = sums((query, key, value), graph, edge_dot(weight), **asked)
            out = out + torch.einsum("qhe,hde->qhd", summed, weight)
        out = out.flatten(1) if self.concat else out.mean(1)
        out = self._joined(out, target) if self.root_weight else out
        return (out, (edge_index, weights)) if weighs else out

    def _is_ours(
        self, memory: Any, target: Any, edge_index: Any, edge_attr: Any, weighs: bool
    ) -> bool:
        if target is None or not is_ours(self, (memory, target), edge_index):
            return False
        if weighs and self.training and self.dropout:
            # PyG gives the weights as they were in front of dropout.
            return False
        if self.lin_edge is None or edge_attr is None:
            return self.lin_edge is None and edge_attr is None
        return edge_attr.dim() == 2 and may_map(self.lin_edge, edge_attr)

    def _project(self, memory: Tensor, target: Tensor) -> list[Tensor]:
        """Query, key and value."""
        if target is memory:
            return mapped(memory, self.lin_query, self.lin_key, self.lin_value)
        return [*mapped(target, self.lin_query), *mapped(memory, self.lin_key, self.lin_value)]

    def _joined(self, out: Tensor, target: Tensor) -> Tensor:
        """The sums and what a node keeps of itself."""
        if self.lin_beta is None:
            return plus_map(out, target, self.lin_skip)
        kept = mapped(target, self.lin_skip)[0]
        beta = self.lin_beta(torch.cat([out, kept, out - kept], dim=-1)).sigmoid()
        return beta * kept + (1 - beta) * out
