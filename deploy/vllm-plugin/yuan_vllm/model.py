"""Yuan 2.0's network on vLLM's V1 engine, from a folder in Hugging Face's layout as Yuan Stack writes it.

Attention is vLLM's. The localized filter in front of queries and keys remembers (u_{t-1}, a_{t-1}) of every sequence,
which vLLM keeps as it keeps the state of a Mamba layer: each block is "hybrid", an attention layer and a state layer.

Shapes: t tokens of all sequences in a row, decoding ones first; r sequences; h hidden.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.mamba.abstract import MambaBase
from vllm.model_executor.layers.mamba.mamba_utils import get_temporal_copy_spec
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.model_executor.models.interfaces import HasInnerState, IsHybrid
from vllm.model_executor.models.utils import maybe_prefix
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum

logger = logging.getLogger("vllm.yuan")

_FILTER_NORM_EPS = 1e-6


class YuanNorm(nn.Module):
    """Root mean square norm in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns [..., size] in the input's dtype."""
        exact = hidden.float()
        normed = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight.float()).to(hidden.dtype)


class YuanConvolution(nn.Module):
    """A causal convolution with kernel 2; weight [out, in, 2, 1], index 0 the older step. Every rank has all of it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 2, 1))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, newer: Tensor, older: Tensor) -> Tensor:
        """Returns [t, out] from steps [t, in] and, for each, the step before it [t, in]."""
        pairs = torch.stack((older, newer), dim=-1).flatten(-2)
        return functional.linear(pairs, self.weight.flatten(1), self.bias)


class YuanLocalizedFilter(nn.Module, MambaBase):
    """The filter, and the place where vLLM puts its state: the last u [h] and a [h/2] of every sequence."""

    def __init__(self, hidden: int, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.hidden = hidden
        self.dtype = vllm_config.model_config.dtype
        self.conv1 = YuanConvolution(hidden, hidden // 2)
        self.conv2 = YuanConvolution(hidden // 2, hidden)
        self.output_layernorm = YuanNorm(hidden, _FILTER_NORM_EPS)
        self.prefix = prefix
        self.kv_cache = (torch.tensor([]), torch.tensor([]))
        vllm_config.compilation_config.static_forward_context[prefix] = self

    @property
    def mamba_type(self) -> MambaAttentionBackendEnum:
        """The kind of state layer whose metadata say which tokens are whose."""
        return MambaAttentionBackendEnum.SHORT_CONV

    @property
    def is_kv_cache_tp_replicated(self) -> bool:
        """Every tensor rank has the whole state, since the filter mixes all channels."""
        return True

    def get_state_shape(self) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes of one sequence's state."""
        return _state_shapes(self.hidden)

    def get_state_dtype(self) -> tuple[torch.dtype, ...]:
        """Returns their dtypes."""
        return (self.dtype, self.dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the filtered input [t, h]."""
        metadata = get_forward_context().attn_metadata
        here = None if metadata is None else metadata[self.prefix]
        places = None if here is None else _Places(here)
        inner = self.conv1(hidden, self._steps_before(0, hidden, places))
        filtered = self.conv2(inner, self._steps_before(1, inner, places))
        return self.output_layernorm(filtered + hidden)

    def _steps_before(self, number: int, steps: Tensor, places: "_Places | None") -> Tensor:
        """Returns the step before each in its own sequence, and keeps the last ones."""
        older = torch.cat((torch.zeros_like(steps[:1]), steps[:-1]))
        if places is None:  # a trial run, in which there are no sequences
            return older
        state = self.kv_cache[number]
        before = state.index_select(0, places.rows).to(steps.dtype).masked_fill(places.begins[:, None], 0)
        older.index_copy_(0, places.firsts, before)
        state.index_copy_(0, places.rows, steps.index_select(0, places.lasts).to(state.dtype))
        return older


class _Places:
    """Where each sequence's new tokens lie, and its state.

    Attributes:
        firsts: place of its first new token [r].
        lasts: of its last.
        rows: where its state lies.
        begins: whether there are no tokens before.
    """

    def __init__(self, metadata: Any) -> None:
        decoding, reading = metadata.num_decodes, metadata.num_prefills
        rows: list[Tensor] = []
        firsts: list[Tensor] = []
        counts: list[Tensor] = []
        if decoding:
            rows.append(metadata.state_indices_tensor_d.flatten()[:decoding])
            firsts.append(torch.arange(decoding, device=rows[0].device))
            counts.append(torch.ones_like(firsts[0]))
        if reading:
            rows.append(metadata.state_indices_tensor_p.flatten()[:reading])
            bounds = metadata.query_start_loc_p.long()
            firsts.append(bounds[:-1] + metadata.num_decode_tokens)
            counts.append(bounds.diff())
        self.rows = torch.cat(rows).long()
        self.firsts = torch.cat(firsts)
        new = torch.cat(counts)
        self.lasts = self.firsts + new - 1
        # A prompt of one token may count as decoding: whether it begins is told by its length alone.
        self.begins = metadata.seq_lens[: len(self.rows)].to(new) <= new


class YuanAttention(nn.Module):
    """Values from the input itself, queries and keys from the filtered input.

    `qk_proj` yields, head by head, its query, then its key, so that equal runs of its rows are whole heads of a rank.
    """

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.head_dim = hidden // heads
        heads_here = heads // get_tensor_model_parallel_world_size()
        quantization = vllm_config.quant_config

        def columns(name: str, width: int) -> ColumnParallelLinear:
            return ColumnParallelLinear(
                hidden, width, bias=False, quant_config=quantization, prefix=f"{prefix}.{name}", return_bias=False
            )

        self.qk_proj = columns("qk_proj", 2 * hidden)
        self.v_proj = columns("v_proj", hidden)
        self.o_proj = RowParallelLinear(
            hidden, hidden, bias=False, quant_config=quantization, prefix=f"{prefix}.o_proj", return_bias=False
        )
        self.lf_gate = (
            YuanLocalizedFilter(hidden, vllm_config, f"{prefix}.lf_gate") if config.localized_filtering else None
        )
        self.attn = Attention(
            heads_here,
            self.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=heads_here,
            cache_config=vllm_config.cache_config,
            quant_config=quantization,
            prefix=f"{prefix}.attn",
        )

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the output [t, h]."""
        filtered = hidden if self.lf_gate is None else self.lf_gate(hidden)
        queries, keys = self.qk_proj(filtered).unflatten(-1, (-1, 2, self.head_dim)).unbind(-2)  # each [t, heads, d]
        queries, keys = (_rotated(part, rotary).flatten(-2) for part in (queries, keys))
        return self.o_proj(self.attn(queries, keys, self.v_proj(hidden)))


def _rotated(heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (part.to(heads.dtype) for part in rotary)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def _rotary(config: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine [t, 1, d/2] in fp32; what angles are computed in says `rope_precision`."""
    head_dim = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    frequencies, places = 1.0 / config.rope_theta**exponents, positions.float()
    if config.rope_precision == "bf16":
        places, frequencies = places.bfloat16(), frequencies.bfloat16()
    elif config.rope_precision == "bf16_frequencies":
        frequencies = frequencies.bfloat16().float()
    angles = places[:, None, None] * frequencies
    return angles.cos().float(), angles.sin().float()


class YuanBlock(nn.Module):
    """One block on the residual stream; the activation of its SwiGLU is on `up_proj`."""

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        quantization = vllm_config.quant_config
        self.input_layernorm = YuanNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = YuanAttention(config, vllm_config, f"{prefix}.self_attn")
        self.post_attention_layernorm = YuanNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = nn.Module()
        self.mlp.up_gate_proj = MergedColumnParallelLinear(
            config.hidden_size,
            [config.intermediate_size] * 2,
            bias=False,
            quant_config=quantization,
            prefix=f"{prefix}.mlp.up_gate_proj",
            return_bias=False,
        )
        self.mlp.down_proj = RowParallelLinear(
            config.intermediate_size,
            config.hidden_size,
            bias=False,
            quant_config=quantization,
            prefix=f"{prefix}.mlp.down_proj",
            return_bias=False,
        )
        self.gated = SiluAndMul()

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the residual stream after the block [t, h]."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary)
        wide = self.gated(self.mlp.up_gate_proj(self.post_attention_layernorm(hidden)))
        return hidden + self.mlp.down_proj(wide)


class YuanModel(nn.Module):
    """The network without its output projection."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            YuanBlock(config, vllm_config, f"{prefix}.layers.{index}") for index in range(config.num_hidden_layers)
        )
        self.norm = YuanNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: Tensor | None, positions: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """Returns the last hidden states [t, h]."""
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        rotary = _rotary(self.config, positions)
        for layer in self.layers:
            hidden = layer(hidden, rotary)
        return self.norm(hidden)


class YuanForCausalLM(nn.Module, HasInnerState, IsHybrid):
    """Yuan as vLLM knows language models."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        if config.attention_reset_at_eod:
            logger.warning(
                "this model was trained with attention that ends at documents' ends (token %s); vLLM's does not, which "
                "matters for prompts that hold this token",
                config.eod_token,
            )
        self.model = YuanModel(vllm_config, maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            config.vocab_size, config.hidden_size, prefix=maybe_prefix(prefix, "lm_head")
        ).tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size)

    @classmethod
    def get_mamba_state_shape_from_config(cls, vllm_config: VllmConfig) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes of one sequence's state in a layer."""
        return _state_shapes(vllm_config.model_config.hf_config.hidden_size)

    @classmethod
    def get_mamba_state_dtype_from_config(cls, vllm_config: VllmConfig) -> tuple[torch.dtype, ...]:
        """Returns their dtypes."""
        return (vllm_config.model_config.dtype,) * 2

    @classmethod
    def get_mamba_state_copy_func(cls) -> tuple[Any, ...]:
        """Returns how each state is copied: whole."""
        return (get_temporal_copy_spec,) * 2

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Returns the embeddings of tokens."""
        return self.model.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Returns the last hidden states [t, h]."""
        del intermediate_tensors, kwargs
        return self.model(input_ids, positions, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Returns logits [t, vocabulary]."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Takes the folder's tensors: joins what it cuts, leaves out what is tied or computed."""
        parameters = dict(self.named_parameters())
        loaded: set[str] = set()
        halves: dict[str, dict[str, Tensor]] = {}
        for name, tensor in weights:
            if name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight":
                continue
            shard: tuple[int, ...] = ()
            target, whole = name, tensor
            if ".q_proj." in name or ".k_proj." in name:
                part = "q_proj" if ".q_proj." in name else "k_proj"
                target = name.replace(part, "qk_proj")
                found = halves.setdefault(target, {})
                found[part] = tensor
                if len(found) < 2:
                    continue
                whole = torch.cat((found["q_proj"], found["k_proj"]))
                del halves[target]
            elif ".up_proj." in name or ".gate_proj." in name:
                shard = (0,) if ".up_proj." in name else (1,)
                target = name.replace("up_proj", "up_gate_proj").replace(".gate_proj", ".up_gate_proj")
            parameter = parameters[target]
            getattr(parameter, "weight_loader", default_weight_loader)(parameter, whole, *shard)
            loaded.add(target)
        if halves:
            raise ValueError(f"{min(halves)}: only one half of the query and key projection is in the files")
        return loaded


def _state_shapes(hidden: int) -> tuple[tuple[int, ...], ...]:
    return ((hidden,), (hidden // 2,))
