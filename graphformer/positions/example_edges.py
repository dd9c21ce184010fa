"""Edges between the tokens of each example, read and checked for the encodings of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from graphformer.layout import Layout
from graphformer.tokens import Tokens


@dataclass(frozen=True)
class ExampleEdges:
    """The edges of a batch, checked, with ids of its tokens without virtual ones.

    Attributes:
        edge_index: sources and targets, int64 [2, edge], on the CPU.
        lengths: tokens of each example without virtual ones, int64 [example], on the CPU.
        num_virtual: virtual tokens before each example.
    """

    edge_index: Tensor
    lengths: Tensor
    num_virtual: int

    @classmethod
    def of(cls, edge_index: Tensor, tokens: Tokens | Layout | int, caller: str) -> ExampleEdges:
        """The edges, checked against the tokens.

        Args:
            edge_index: ids of source and target, counted without virtual tokens.
            tokens: the tokens, or the number of nodes of a single graph.
            caller: the function that was called, named in the errors.

        Raises:
            ValueError: if `edge_index` is not of integers [2, edge], or an edge leaves the batch or
                its example.
        """
        if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.is_floating_point():
            raise ValueError(
                f"{caller} got edges of {edge_index.dtype} and shape {tuple(edge_index.shape)}: "
                "give integer ids [2, edge], sources in row 0 and targets in row 1."
            )
        ids = edge_index.cpu().long()
        if isinstance(tokens, int):
            edges = cls(ids, torch.tensor([tokens]), 0)
        else:
            edges = cls(ids, tokens.lengths - tokens.num_virtual, tokens.num_virtual)
        edges._refuse_outside(caller)
        return edges

    def _refuse_outside(self, caller: str) -> None:
        ids = self.edge_index
        outside = ((ids < 0) | (ids >= self.num_nodes)).any(0)
        if outside.any():
            edge = int(outside.nonzero()[0])
            raise ValueError(
                f"{caller} got edge {edge} from {int(ids[0, edge])} to {int(ids[1, edge])}, and "
                f"there are {self.num_nodes} tokens (virtual ones are not counted)."
            )
        example = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)[ids]
        across = example[0] != example[1]
        if across.any():
            edge = int(across.nonzero()[0])
            raise ValueError(
                f"{caller} got edge {edge} from example {int(example[0, edge])} to example "
                f"{int(example[1, edge])}: give ids of flat tokens, such as batch.edge_index."
            )

    @property
    def num_nodes(self) -> int:
        return int(self.lengths.sum())

    def adjacency(self) -> sparse.csr_array:
        """Entry (i, j) is 1 where an edge leads from i to j, however often."""
        rows, columns = self.edge_index.numpy()
        ones = np.ones(len(rows))
        matrix = sparse.csr_array((ones, (rows, columns)), shape=(self.num_nodes, self.num_nodes))
        matrix.data[:] = 1.0
        return matrix

    def spread(self, values: Tensor) -> Tensor:
        """Values of the nodes [node, ...] as rows of all tokens; zeros for virtual ones."""
        if self.num_virtual == 0:
            return values
        lengths = self.lengths + self.num_virtual
        real = torch.arange(int(lengths.sum()))
        start = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        spread = values.new_zeros(len(real), *values.shape[1:])
        spread[real - start >= self.num_virtual] = values
        return spread
