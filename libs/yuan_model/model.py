"""The whole network: embedding, blocks, final norm, and the embedding again as the output projection.

State dict keys are the native tensor names (`model.layers.0.self_attn.qk_proj.weight` ...).
Shape suffixes: b batch, s new tokens, k all tokens (past and new), h hidden, v vocabulary.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.block import Block
from yuan_model.cache import DecodeCache
from yuan_model.causal import document_segments
from yuan_model.config import YuanConfig
from yuan_model.norm import RMSNorm
from yuan_model.rotary import RotaryTable


class Decoder(nn.Module):
    """The parameters, under the names that files give them."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        # Not drawn: it is set anyway, and drawing numbers for a network without memory has torch import its compiler.
        rows = torch.empty(config.vocab_size, config.hidden_size)
        embedding: nn.Embedding = cast("Any", nn.Embedding).from_pretrained(rows, freeze=False)
        self.embed_tokens = embedding
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Yuan(nn.Module):
    """A Yuan language model. Weights are uninitialised until `initialize_` or `load_model` sets them."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.rotary = RotaryTable(config)

    @property
    def embed_tokens(self) -> nn.Embedding:
        """The embedding, whose weight [v, h] is also the output projection."""
        return self.model.embed_tokens

    @property
    def layers(self) -> list[Block]:
        """The blocks in order."""
        return list(cast("Iterable[Block]", self.model.layers))

    @property
    def norm(self) -> RMSNorm:
        """The norm before the output projection."""
        return self.model.norm

    def forward(
        self, input_ids: Tensor, cache: DecodeCache | None = None, *, position_ids: Tensor | None = None
    ) -> Tensor:
        """Returns logits [b, s, v] for int64 token ids [b, s], in the weights' dtype.

        Args:
            input_ids: tokens; with a cache, only those that it does not hold yet. However a sequence is cut into
                such chunks, its logits are the same.
            cache: the tokens before; these are added to it.
            position_ids: int64 [b, s], where positions do not simply count on (packed documents that each begin at 0).

        Raises:
            ValueError: if the sequence is empty or longer than max_position_embeddings.
        """
        hidden_bsh = self.hidden_states(input_ids, cache, position_ids=position_ids)
        return functional.linear(hidden_bsh, self.embed_tokens.weight)

    def next_token_logits(self, input_ids: Tensor, cache: DecodeCache | None = None) -> Tensor:
        """Returns the last position's logits [b, v] alone: a prompt's other logits are never computed."""
        return functional.linear(self.hidden_states(input_ids, cache)[:, -1], self.embed_tokens.weight)

    def hidden_states(
        self, input_ids: Tensor, cache: DecodeCache | None = None, *, position_ids: Tensor | None = None
    ) -> Tensor:
        """Returns the last normed hidden states [b, s, h]: `forward` without the output projection."""
        past = 0 if cache is None else cache.length
        new, longest = input_ids.shape[1], self.config.max_position_embeddings
        if new == 0:
            raise ValueError("input_ids holds no token")
        if past + new > longest:
            raise ValueError(f"sequence of {past + new} tokens is longer than max_position_embeddings {longest}")
        if position_ids is None:
            rotary = self.rotary.between(past, past + new, input_ids.device)
        else:
            rotary = self.rotary(position_ids)
        segments_bk = self._segments(input_ids, cache)
        hidden_bsh = self.embed_tokens(input_ids)
        for index, block in enumerate(self.layers):
            hidden_bsh = block(hidden_bsh, rotary, segments_bk, None if cache is None else cache.layers[index])
        return self.norm(hidden_bsh)

    def _segments(self, input_ids: Tensor, cache: DecodeCache | None) -> Tensor | None:
        eod = self.config.eod_token_id
        if not self.config.attention_reset_at_eod or eod is None:
            return None
        segments_bs = document_segments(input_ids, eod)
        if cache is None:
            return segments_bs
        return cache.append_segments(segments_bs, (input_ids == eod).sum(dim=1, keepdim=True))
