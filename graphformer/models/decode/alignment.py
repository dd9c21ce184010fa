"""Alignment: what of the source each token of a target attends to."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphformer.layers import Attention
from graphformer.models.recurrent import AttentionalLSTM
from graphformer.models.sequence import Transformer
from graphformer.tokens import Tokens
from graphformer.topology import complete


@torch.no_grad()
def align(
    model: Transformer | AttentionalLSTM, source: Tokens, target: Tokens, layer: int | None = None
) -> list[Float[Tensor, "_ _"]]:
    """For each example the weights [target token, source token] with which it was attended to.

    The weights of one decoder layer, averaged over its heads, on the CPU: row i is of the token by
    which target token i + 1 is told, for the target begins with an id that nothing tells.

    Args:
        model: a `Transformer`, or an `AttentionalLSTM`, which has a single attention.
        source: ids of the sentences.
        target: ids of their translations, from the beginning on.
        layer: of the decoder, 0 the first, -1 the last; the last but one where left out, or the
            only one.

    Raises:
        ValueError: if the model is in training mode, or has no such layer.

    Source: Garg et al. 2019 (1909.02074), section 3, for the last layer but one.
    """
    if isinstance(model, AttentionalLSTM):
        return model.align(source, target)
    if model.training:
        raise ValueError("the model is training, with dropout on; call model.eval() first")
    count = len(model.decoder)
    layer = -min(2, count) if layer is None else layer
    if not -count <= layer < count:
        raise ValueError(
            f"layer is {layer}, and the decoder has {count}: write 0 to {count - 1}, or -1 for "
            "the last"
        )
    memory = model.encode(source)
    graph = complete().bind(target, memory)
    block: Any = model.decoder[layer]
    attention: Attention = block.cross.layer
    seen: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(attention.weigh(inputs[0], graph, memory.x))

    handle = attention.register_forward_pre_hook(look)
    try:
        model.decode(target, memory, cross=graph)
    finally:
        handle.remove()
    means = seen[0].mean(1).cpu()
    sizes = list(zip(target.lengths.tolist(), source.lengths.tolist(), strict=True))
    parts = means.split([rows * columns for rows, columns in sizes])
    return [part.view(*size) for part, size in zip(parts, sizes, strict=True)]
