"""Which token stands in which slot of a cache, and which sequences are made of it."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from graphformer.tokens import Tokens
from graphformer.topology import Topology
from graphformer.topology.look_back import may_be_heard

# Where an empty slot stands: after every query, so that no causal rule lets it be heard.
NOWHERE = 2**30


class Slots:
    """The slots of each example, used again where what stood in them is heard no more.

    Args:
        num_examples: number of examples.
        capacity: slots of each to begin with, in tokens.
        device: where the decoder is.

    Attributes:
        lengths: tokens of each sequence of an example so far, [example], on the CPU.
        at: the position of the token in each slot, [example, slot]; `NOWHERE` if it is empty.
        heard: whether each sequence is made of what stands in each slot, [example, sequence, slot].
    """

    def __init__(self, num_examples: int, capacity: int, device: torch.device | str) -> None:
        self.lengths = torch.zeros(num_examples, dtype=torch.int64)
        self.at = torch.full((num_examples, capacity), NOWHERE, device=device)
        self.heard = torch.zeros(num_examples, 1, capacity, dtype=torch.bool, device=device)

    @property
    def num_examples(self) -> int:
        return self.at.shape[0]

    @property
    def num_sequences(self) -> int:
        return self.heard.shape[1]

    @property
    def capacity(self) -> int:
        return self.at.shape[1]

    def reserve(self, new: Tokens) -> int:
        """Makes room for the tokens, and returns how many slots each example got for it."""
        needed = new.lengths.view(-1, self.num_sequences).sum(1)
        lacking = int((needed - (self.at == NOWHERE).sum(1).cpu()).max())
        if lacking <= 0:
            return 0
        more = max(lacking, self.capacity // 2)
        self.at = F.pad(self.at, (0, more), value=NOWHERE)
        self.heard = F.pad(self.heard, (0, more))
        return more

    def place(
        self, new: Tokens
    ) -> tuple[Int[Tensor, "token"], Int[Tensor, "token"], Int[Tensor, "token"]]:
        """The slot of each token, counted over all examples, its position and its sequence.

        There must be room for them; see `reserve`.
        """
        count = torch.arange(new.num_examples, device=new.ptr.device)
        sequence = count.repeat_interleave(new.ptr.diff(), output_size=new.num_tokens)
        example = sequence.div(self.num_sequences, rounding_mode="floor")
        at = new.at[:, 0] + self.lengths.to(new.at.device)[example]
        # The first token of an example gets its first empty slot, and so on.
        empty = (self.at == NOWHERE).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        first = new.ptr[:: self.num_sequences][example]
        slot = empty[example, torch.arange(new.num_tokens, device=first.device) - first]
        flat = example * self.capacity + slot
        self.at.view(-1)[flat] = at
        self.heard.view(-1)[sequence * self.capacity + slot] = True
        self.lengths = self.lengths + new.lengths[:: self.num_sequences]
        return flat, at, sequence

    def forget(self, topology: Topology) -> None:
        """Empties the slots of what the topology lets no query hear from now on."""
        heard = may_be_heard(topology, self.at, self.lengths.to(self.at.device))
        if heard is not None:
            self.at = self.at.masked_fill(~heard, NOWHERE)
            self.heard = self.heard & heard.unsqueeze(1)

    def fork(self, parents: Int[Tensor, "example sequence"]) -> None:
        """Goes on with these sequences of each example; slots that none is made of are empty."""
        example = torch.arange(self.num_examples, device=parents.device).unsqueeze(1)
        self.heard = self.heard[example, parents]
        self.at = self.at.masked_fill(~self.heard.any(1), NOWHERE)

    def select(self, index: Int[Tensor, "chosen"]) -> None:
        """Goes on with these examples."""
        self.lengths = self.lengths[index.cpu()]
        self.at, self.heard = self.at.index_select(0, index), self.heard.index_select(0, index)
