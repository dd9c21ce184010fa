"""PyG's `GCNConv` on our backends."""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphformer.graph import TokenGraph
from graphformer.nn.drop_in import DropIn, Ends, bound, eager, fits, is_ours, plain, sums
from graphformer.nn.linear_maps import mapped, plus
from graphformer.nn.memory import remembered
from graphformer.nn.scores import given_weight


class GCNConv(DropIn, torch_geometric.nn.GCNConv):
    """`torch_geometric.nn.GCNConv` as attention whose weights are given: nothing normalizes them.

    Where there are no edge weights the degrees are remembered with the graph.

    Source: Kipf and Welling 2017 (1609.02907), equation 2.
    """

    _cached_edge_index: Any

    @eager
    def forward(self, x: Any, edge_index: Any, edge_weight: Any = None) -> Any:
        """What PyG's layer gives for the same arguments; see there."""
        if not self._is_ours(x, edge_index, edge_weight):
            return super().forward(x, edge_index, edge_weight)
        graph = self._graph(x, edge_index, edge_weight)
        value = mapped(x, self.lin)[0].unsqueeze(1)
        out = sums((None, None, value), graph, given_weight(), normalize="none").out.squeeze(1)
        if self.bias is None:
            # Under autocast PyG's sum has the dtype of its weights.
            return out.to(torch.promote_types(out.dtype, x.dtype))
        return plus(out, self.bias)

    def _is_ours(self, x: Any, edge_index: Any, edge_weight: Any) -> bool:
        # Through a sparse matrix PyG itself takes one product.
        cached = self._cached_edge_index
        return (
            isinstance(x, Tensor)
            and is_ours(self, (x,), edge_index)
            and edge_index.layout is torch.strided
            and (cached is None or cached[0].layout is torch.strided)
            and fits(Ends(x.shape[0], x.shape[0]), edge_index)
            and (edge_weight is None or (edge_weight.dim() == 1 and edge_weight.dtype == x.dtype))
        )

    def _graph(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None) -> TokenGraph:
        """The graph, with the weights of its edges as their data."""
        ends = Ends(x.shape[0], x.shape[0])
        if self.normalize and self.cached:
            cached = self._cached_edge_index or self._norm(x, edge_index, edge_weight)
            edge_index, edge_weight = self._cached_edge_index = cached
        elif self.normalize:
            settings = (ends, self.improved, self.add_self_loops, x.dtype)

            def bind() -> TokenGraph:
                added, weight = self._norm(x, edge_index, None)
                return TokenGraph.from_edge_index(plain(added), x.shape[0], edge=weight)

            graph = remembered(edge_index, settings, bind)
            if edge_weight is None:
                return graph
            return graph.with_edge_data(edge=self._norm(x, edge_index, edge_weight)[1])
        graph = bound(edge_index, ends)
        return graph if edge_weight is None else graph.with_edge_data(edge=edge_weight)

    def _norm(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Edges with self loops, and their weights over the roots of both degrees."""
        settings = (self.improved, self.add_self_loops, self.flow, x.dtype)
        found: tuple[Tensor, Tensor] = gcn_norm(edge_index, edge_weight, x.shape[0], *settings)
        return found
