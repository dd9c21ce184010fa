"""PyG's `TransformerConv` on our backends."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor

from graphformer.nn.drop_in import DropIn, Ends, bound, eager, fits, is_ours, sums
from graphformer.nn.linear_maps import mapped, may_map, plus
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
        projected, kept = self._project(memory, target)
        query, key, value = (part.view(size) for part in projected)
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
        out = out if kept is None else self._joined(out, kept)
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

    def _project(self, memory: Tensor, target: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Query, key and value, and what a node keeps of itself."""
        of_target = [self.lin_query, self.lin_skip] if self.root_weight else [self.lin_query]
        of_memory = [self.lin_key, self.lin_value]
        if target is memory:
            query, key, value, *kept = mapped(memory, of_target[0], *of_memory, *of_target[1:])
        else:
            query, *kept = mapped(target, *of_target)
            key, value = mapped(memory, *of_memory)
        return [query, key, value], kept[0] if kept else None

    def _joined(self, out: Tensor, kept: Tensor) -> Tensor:
        """The sums and what a node keeps of itself."""
        if self.lin_beta is None:
            return plus(out, kept)
        beta = self.lin_beta(torch.cat([out, kept, out - kept], dim=-1)).sigmoid()
        return beta * kept + (1 - beta) * out
