"""The translators that ours is measured against, as a careful user would write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphformer.models.sequence import Size
from graphformer.positions import sinusoidal

LONGEST = 512


class Padded(NamedTuple):
    """Sentence pairs as rectangles.

    Attributes:
        source: ids [sentence, longest], 0 behind the end.
        target: the same of the target from its start on.
        following: the id that follows each target token, those of all sentences in a row.
        padding: where a source has no token.
        written: where a target has one.
    """

    source: Tensor
    target: Tensor
    following: Tensor
    padding: Tensor
    written: Tensor


class TorchTranslator(nn.Module):
    """`torch.nn.Transformer` with tied embeddings, norms in front, and no dropout of weights.

    Without the latter its attention runs on torch's fused kernels.
    """

    def __init__(self, vocabulary: int, size: Size) -> None:
        super().__init__()
        self.scale = size.dim**0.5
        self.table = nn.Embedding(vocabulary, size.dim)
        nn.init.normal_(self.table.weight, std=1 / self.scale)
        self.register_buffer("places", sinusoidal(torch.arange(LONGEST), size.dim))
        self.dropout = nn.Dropout(size.dropout)
        with warnings.catch_warnings():
            # That norms in front keep it from its nested tensors, which are slower here.
            warnings.filterwarnings("ignore", "enable_nested_tensor")
            self.core = nn.Transformer(
                size.dim,
                size.heads,
                size.layers,
                size.layers,
                size.hidden,
                size.dropout,
                batch_first=True,
                norm_first=True,
            )
        for module in self.core.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0

    def embed(self, ids: Tensor) -> Tensor:
        places: Any = self.places
        out: Tensor = self.dropout(self.table(ids) * self.scale + places[: ids.shape[1]])
        return out

    def encode(self, source: Tensor, padding: Tensor) -> Tensor:
        out: Tensor = self.core.encoder(self.embed(source), src_key_padding_mask=padding)
        return out

    def decode(self, target: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """Hidden states; what stands behind the end of a target is behind all that is read."""
        length = target.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        out: Tensor = self.core.decoder(
            self.embed(target),
            memory,
            tgt_mask=causal,
            tgt_is_causal=True,
            memory_key_padding_mask=padding,
        )
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.table.weight)

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> Tensor:
        """Logits [sentence, token, vocabulary], by the `forward` of `torch.nn.Transformer`."""
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        hidden = self.core(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.logits(hidden)

    def loss(self, batch: Padded) -> Tensor:
        """The mean over the target tokens, of which only those that are there become logits."""
        memory = self.encode(batch.source, batch.padding)
        hidden = self.decode(batch.target, memory, batch.padding)[batch.written]
        return F.cross_entropy(self.logits(hidden), batch.following, label_smoothing=0.1)


def search(
    model: TorchTranslator, source: Tensor, padding: Tensor, beam: int, length: int
) -> Tensor:
    """The best of a beam, as who minds the time writes it without a cache.

    The source is encoded once, and only the last token becomes logits.
    """
    with torch.inference_mode():
        memory = model.encode(source, padding).repeat_interleave(beam, 0)
    padding = padding.repeat_interleave(beam, 0)
    return search_by(
        lambda ids: model.logits(model.decode(ids, memory, padding)[:, -1]),
        source.shape[0],
        beam,
        length,
    )


def search_whole(
    model: TorchTranslator, source: Tensor, padding: Tensor, beam: int, length: int
) -> Tensor:
    """The best of a beam by calls of the whole model, which is what `nn.Transformer` offers."""
    source, padding = source.repeat_interleave(beam, 0), padding.repeat_interleave(beam, 0)
    return search_by(
        lambda ids: model(source, ids, padding)[:, -1], source.shape[0] // beam, beam, length
    )


@torch.inference_mode()
def search_by(
    logits_of: Callable[[Tensor], Tensor], sentences: int, beam: int, length: int
) -> Tensor:
    """The best of a beam after so many tokens, all sentences at once.

    Args:
        logits_of: ids [sentence x beam, token] so far -> logits [sentence x beam, vocabulary].
        sentences: how many.
        beam: how many hypotheses of each.
        length: tokens after the first.
    """
    ids = torch.full((sentences * beam, 1), 2)
    totals = torch.full((sentences, beam), -torch.inf)
    totals[:, 0] = 0.0
    for _ in range(length):
        steps = logits_of(ids).float().log_softmax(-1)
        vocabulary = steps.shape[1]
        every = (totals.view(-1, 1) + steps).view(sentences, -1)
        totals, best = every.topk(beam)
        rows = best.div(vocabulary, rounding_mode="floor")
        rows = (rows + beam * torch.arange(sentences).unsqueeze(1)).flatten()
        ids = torch.cat([ids[rows], (best % vocabulary).view(-1, 1)], 1)
    return ids.view(sentences, beam, -1)[:, 0]


def make_marian(vocabulary: int, size: Size) -> Any:
    """Hugging Face's MarianMT of this size; its translations never end by themselves.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=vocabulary,
        d_model=size.dim,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.hidden,
        decoder_ffn_dim=size.hidden,
        max_position_embeddings=LONGEST,
        scale_embedding=True,
        activation_function="relu",
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return MarianMTModel(config).eval()


def search_marian(model: Any, source: Tensor, padding: Tensor, beam: int, length: int) -> Tensor:
    """What its `generate` finds with a beam, with its cache, after so many tokens."""
    found: Tensor = model.generate(
        input_ids=source,
        attention_mask=(~padding).long(),
        num_beams=beam,
        min_new_tokens=length,
        max_new_tokens=length,
        do_sample=False,
        use_cache=True,
    )
    return found
