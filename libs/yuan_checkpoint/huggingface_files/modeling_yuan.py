"""Yuan 2.0 for `transformers` (4.56 or newer, 5): needs torch and nothing else, runs on any device.

The network (arXiv 2311.15786): token embedding, blocks of attention and feed-forward with RMSNorm in front, a last
norm, and the embedding again as the output projection. Queries and keys come from a *locally filtered* input:

    a_t = c1(u_{t-1}, u_t)      b_t = c2(a_{t-1}, a_t)      f_t = RMSNorm(b_t + u_t)

with zeros before the first token. In decoding a layer therefore remembers (u_{t-1}, a_{t-1}) beside keys and values:
`YuanCacheLayer`, which lies in an ordinary `DynamicCache`. Padding is as if it were not there, on either side while
tokens are read at once, on the left in decoding.

Shapes: b batch, s new tokens, k all tokens (past and new), h hidden, n heads, d numbers of a head.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import logging

from .configuration_yuan import YuanConfig

logger = logging.get_logger(__name__)

_FILTER_NORM_EPS = 1e-6
_CACHE_FIELD = next(
    field.name
    for field in dataclasses.fields(CausalLMOutputWithPast)
    if field.name in ("cache", "past_key_values")  # renamed in transformers 5
)


class YuanCacheLayer(DynamicLayer):
    """Keys and values of one layer, and what the localized filter and document ends need of the past.

    Attributes:
        filter_steps: the last u [b, 1, h] and a [b, 1, h/2]; None before the first token.
        documents: of the first layer alone, where attention ends at documents' ends: number of each token's document
            [b, k], and how many documents have ended [b, 1].
    """

    is_croppable = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filter_steps: tuple[Tensor, ...] | None = None
        self.documents: tuple[Tensor, ...] | None = None

    def reset(self) -> None:
        """Forgets everything."""
        self.keys = self.values = None
        self.is_initialized = False
        self.filter_steps = self.documents = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Takes other rows of the batch, as beam search does."""
        super().reorder_cache(beam_idx)
        self._map_state(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self._map_state(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows of the batch."""
        super().batch_select_indices(indices)
        self._map_state(lambda state: state[indices, ...])

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: the filter's state of earlier tokens is not kept.

        Raises:
            ValueError: always.
        """
        raise ValueError("Yuan's cache cannot be cropped: the localized filter remembers the last token alone")

    def _map_state(self, change: Any) -> None:
        if self.filter_steps is not None:
            self.filter_steps = tuple(map(change, self.filter_steps))
        if self.documents is not None:
            self.documents = tuple(map(change, self.documents))


def _with_yuan_layers(cache: Any, layers: int) -> DynamicCache:
    """Returns a cache whose layers know the filter; one that was made elsewhere and is empty gets them."""
    if not isinstance(cache, DynamicCache):
        raise ValueError(f"{type(cache).__name__} has no place for the localized filter's state; use DynamicCache")
    if len(cache.layers) != layers or not all(isinstance(layer, YuanCacheLayer) for layer in cache.layers):
        if cache.get_seq_length() > 0:
            raise ValueError("the cache was filled by another model, or is of another number of layers")
        cache.layers = [YuanCacheLayer() for _ in range(layers)]
    return cache


class YuanRMSNorm(nn.Module):
    """Root mean square norm, in fp32 whatever the dtype around it."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [..., size] in the input's dtype."""
        exact = hidden.float()
        normed = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight.float()).to(hidden.dtype)


class YuanCausalConvolution(nn.Conv2d):
    """A convolution over the sequence, kernel 2; its weight is stored as [out, in, 2, 1], index 0 the older step."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=(2, 1))

    def forward(self, newer: Tensor, older: Tensor) -> Tensor:
        """Returns [b, s, out] from steps [b, s, in] and, for each, the step before it [b, s, in]."""
        pairs = torch.stack((older, newer), dim=-1).flatten(-2)
        return functional.linear(pairs, self.weight.flatten(1), self.bias)


class YuanLocalizedFilter(nn.Module):
    """Two causal convolutions and a norm in front of the query and key projection."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.conv1 = YuanCausalConvolution(hidden, hidden // 2)
        self.conv2 = YuanCausalConvolution(hidden // 2, hidden)
        self.output_layernorm = YuanRMSNorm(hidden, _FILTER_NORM_EPS)

    def forward(self, hidden: Tensor, padding: Tensor | None, cache_layer: YuanCacheLayer | None) -> Tensor:
        """Returns the filtered input [b, s, h].

        Args:
            hidden: the normalised input [b, s, h].
            padding: bool [b, s, 1], true where there is no token; None: nowhere. What follows it begins with zeros.
            cache_layer: holds the steps before, and is left holding the last ones.
        """
        past = (None, None) if cache_layer is None or cache_layer.filter_steps is None else cache_layer.filter_steps
        steps = _emptied(hidden, padding)
        inner = _emptied(self.conv1(steps, _steps_before(steps, past[0])), padding)
        filtered = self.conv2(inner, _steps_before(inner, past[1]))
        if cache_layer is not None:
            # Copies: views would keep every token's steps alive.
            cache_layer.filter_steps = (steps[:, -1:].clone(), inner[:, -1:].clone())
        return self.output_layernorm(filtered + steps)


def _emptied(steps: Tensor, padding: Tensor | None) -> Tensor:
    return steps if padding is None else steps.masked_fill(padding, 0)


def _steps_before(steps: Tensor, last: Tensor | None) -> Tensor:
    first = torch.zeros_like(steps[:, :1]) if last is None else last.to(steps)
    return torch.cat((first, steps[:, :-1]), dim=1)


class YuanAttention(nn.Module):
    """Multi-head attention: values from the input itself, queries and keys from the filtered input.

    The files cut the fused query and key projection in the middle: `q_proj` holds queries *and* keys of the first half
    of the heads, `k_proj` those of the second. Side by side they are, head by head, its query, then its key.
    """

    def __init__(self, config: YuanConfig, layer_index: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.config = config
        self.layer_index = layer_index
        self.head_dim = hidden // config.num_attention_heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.lf_gate = YuanLocalizedFilter(config) if config.localized_filtering else None

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        visible: Tensor | None,
        padding: Tensor | None,
        cache: DynamicCache | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the output [b, s, h] and, where they are wanted, the attention weights [b, n, s, k]."""
        batch, length, _ = hidden.shape
        layer = None if cache is None else cache.layers[self.layer_index]
        filtered = hidden if self.lf_gate is None else self.lf_gate(hidden, padding, layer)
        pairs = torch.cat((self.q_proj(filtered), self.k_proj(filtered)), dim=-1)
        queries, keys = pairs.view(batch, length, -1, 2, self.head_dim).permute(3, 0, 2, 1, 4)  # each [b, n, s, d]
        values = self.v_proj(hidden).view(batch, length, -1, self.head_dim).transpose(1, 2)
        queries, keys = _rotated(queries, rotary), _rotated(keys, rotary)
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer_index)
        weights = None
        if want_weights or self.config._attn_implementation == "eager":
            scores = queries @ keys.transpose(-1, -2) / self.head_dim**0.5
            causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
            seen = causal if visible is None else visible
            weights = scores.float().masked_fill(~seen, float("-inf")).softmax(dim=-1).to(queries.dtype)
            output = weights @ values
        else:
            output = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=visible, is_causal=visible is None
            )
        return self.o_proj(output.transpose(1, 2).reshape(batch, length, -1)), weights


def _rotated(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the halves of heads [b, n, s, d] by their positions' angles: cosine and sine, [b or 1, 1, s, d/2] each."""
    cosine, sine = (part.to(heads.dtype) for part in rotary)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class YuanMLP(nn.Module):
    """SwiGLU; the activation is on `up_proj`, opposite to Llama's files."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [b, s, h]."""
        return self.down_proj(functional.silu(self.up_proj(hidden)) * self.gate_proj(hidden))


class YuanDecoderLayer(GradientCheckpointingLayer):
    """One block on the residual stream."""

    def __init__(self, config: YuanConfig, layer_index: int) -> None:
        super().__init__()
        self.input_layernorm = YuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = YuanAttention(config, layer_index)
        self.post_attention_layernorm = YuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = YuanMLP(config)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        visible: Tensor | None,
        padding: Tensor | None,
        cache: DynamicCache | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the residual stream after the block [b, s, h] and the attention weights, where they are wanted."""
        mixed, weights = self.self_attn(self.input_layernorm(hidden), rotary, visible, padding, cache, want_weights)
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), weights


class YuanPreTrainedModel(PreTrainedModel):
    """What `transformers` wants to know of all Yuan models."""

    config_class = YuanConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["YuanDecoderLayer"]  # noqa: RUF012 - transformers reads and never changes it
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _supports_sdpa = True
    _is_stateful = True  # the filter's state cannot go back, so assisted generation is refused
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012 - in published files, computed here


class YuanModel(YuanPreTrainedModel):
    """The network without its output projection."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(YuanDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = YuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: DynamicCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns the last hidden states and the cache.

        Args:
            input_ids: new tokens [b, s]; however a sequence is cut into such pieces, the result is the same.
            attention_mask: [b, k] over past and new tokens, 0 where there is no token; None: tokens everywhere.
            position_ids: [b, s]; None: tokens count on from 0, padding left out.
            past_key_values: the cache, by its name before transformers 5.
            inputs_embeds: [b, s, h] in place of ids.
            use_cache: whether to return a cache; None: as the configuration says.
            output_attentions: return every layer's attention weights, computed without fused kernels.
            output_hidden_states: return the embedding and every layer's output; the last one is normed.
            return_dict: False: a tuple.
            cache: the tokens before; new ones are added to it.
            **kwargs: ignored.

        Raises:
            ValueError: if ids and embeddings are both given or both missing, or the mask has not [b, k] numbers.
        """
        del kwargs
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(cache if cache is not None else past_key_values, use_cache)
        past, (batch, new, _) = 0 if cache is None else cache.get_seq_length(), hidden.shape
        if attention_mask is not None:
            if attention_mask.shape != (batch, past + new):
                shape = list(attention_mask.shape)
                raise ValueError(
                    f"attention_mask is {shape}; expected [batch, past and new tokens] {[batch, past + new]}"
                )
            attention_mask = attention_mask.bool()
            if not torch.compiler.is_compiling() and bool(attention_mask.all()):
                attention_mask = None
        if position_ids is None:
            position_ids = _positions(attention_mask, past, new, hidden.device)
        documents = self._documents(input_ids, attention_mask, cache)
        visible = _visible(attention_mask, documents, past, new, hidden.device)
        padding = None if attention_mask is None else ~attention_mask[:, past:, None]
        rotary = _rotary(config, position_ids)
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        all_hidden, all_weights = [hidden], []
        for layer in self.layers:
            hidden, weights = layer(
                hidden,
                rotary=rotary,
                visible=visible,
                padding=padding,
                cache=cache,
                want_weights=bool(output_attentions),
            )
            all_hidden.append(hidden)
            all_weights.append(weights)
        hidden = all_hidden[-1] = self.norm(hidden)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=tuple(all_hidden) if output_hidden_states else None,
            attentions=tuple(all_weights) if output_attentions else None,
            **{_CACHE_FIELD: cache},
        )
        return output.to_tuple() if return_dict is False else output

    def _cache(self, cache: DynamicCache | None, use_cache: bool | None) -> DynamicCache | None:
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError("gradient checkpointing computes layers twice and cannot go on from a cache")
            return None
        if cache is None and not use_cache:
            return None
        return _with_yuan_layers(DynamicCache() if cache is None else cache, self.config.num_hidden_layers)

    def _documents(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, cache: DynamicCache | None
    ) -> Tensor | None:
        """Returns the number of every token's document [b, k]; None where all documents see each other."""
        if not self.config.attention_reset_at_eod or self.config.eod_token is None:
            return None
        if input_ids is None:
            raise ValueError("where attention ends at documents' ends, input_ids are needed: embeddings show no ends")
        ends = input_ids == self.config.eod_token
        if attention_mask is not None:
            ends = ends & attention_mask[:, -input_ids.shape[1] :]  # padding may be the same token and ends nothing
        numbers = ends.long().cumsum(dim=1) - ends.long()
        ended = ends.long().sum(dim=1, keepdim=True)
        if cache is None:
            return numbers
        layer = cache.layers[0]
        if layer.documents is not None:
            earlier, ended_before = layer.documents
            numbers, ended = torch.cat((earlier, numbers + ended_before), dim=1), ended + ended_before
        layer.documents = (numbers, ended)
        return numbers


def _positions(attention_mask: Tensor | None, past: int, new: int, device: torch.device) -> Tensor:
    """Returns the places of the new tokens among all that are no padding, [b or 1, s]."""
    if attention_mask is None:
        return torch.arange(past, past + new, device=device)[None]
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, past:]


def _visible(
    attention_mask: Tensor | None, documents: Tensor | None, past: int, new: int, device: torch.device
) -> Tensor | None:
    """Returns which tokens each new one sees, bool [b or 1, 1, s, k]; None: all before it, of new ones alone."""
    if attention_mask is None and documents is None and past == 0:
        return None
    places = torch.arange(past + new, device=device)
    seen = (places[past:, None] >= places[None, :])[None]
    if documents is not None:
        seen = seen & (documents[:, past:, None] == documents[:, None, :])
    if attention_mask is not None:
        # Padding sees itself: a row that sees nothing would become NaN.
        seen = (seen & attention_mask[:, None, :]) | (places[past:, None] == places[None, :])
    return seen[:, None]


def _rotary(config: YuanConfig, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of positions [b or 1, s] as [b or 1, 1, s, d/2] in fp32; see `rope_precision`."""
    head_dim = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    frequencies, positions = 1.0 / config.rope_theta**exponents, position_ids.float()
    if config.rope_precision == "bf16":
        positions, frequencies = positions.bfloat16(), frequencies.bfloat16()
    elif config.rope_precision == "bf16_frequencies":
        frequencies = frequencies.bfloat16().float()
    angles = positions[..., None] * frequencies
    return angles.cos().float()[:, None], angles.sin().float()[:, None]


class YuanForCausalLM(YuanPreTrainedModel, GenerationMixin):
    """Yuan as a language model."""

    # A mapping for transformers 5; version 4 reads its keys alone.
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: YuanConfig) -> None:
        super().__init__(config)
        self.model = YuanModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Tells `generate` to make a DynamicCache, which version 4 does not for stateful models."""
        return True

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: DynamicCache | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns logits [b, s, vocabulary], and a loss where there are labels.

        Args:
            input_ids: see `YuanModel.forward`, as of the others that are not listed.
            attention_mask: see there.
            position_ids: see there.
            past_key_values: see there.
            inputs_embeds: see there.
            labels: [b, s], shifted here as everywhere in `transformers`: labels[t] is compared with what is predicted
                at t - 1 (the published code does not shift). -100: not counted.
            use_cache: see there.
            output_attentions: see there.
            output_hidden_states: see there.
            return_dict: see there.
            logits_to_keep: logits of only that many last tokens, or of those at these places; 0: of all.
            cache: see there.
            **kwargs: to the loss function, such as num_items_in_batch.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            cache=cache if cache is not None else past_key_values,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        hidden = outputs.last_hidden_state
        logits = self.lm_head(hidden if isinstance(kept, int) else hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{_CACHE_FIELD: getattr(outputs, _CACHE_FIELD)},
        )
        return output.to_tuple() if return_dict is False else output


__all__ = ["YuanCacheLayer", "YuanForCausalLM", "YuanModel", "YuanPreTrainedModel"]
