"""The sizes and switches of a Yuan network, checked when they are made; not how it is trained or divided.

Field names are those of the published Hugging Face configs. What those configs can say and this network
cannot do is refused by name (`from_hugging_face`), never ignored.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, cast, get_args

RopePrecision = Literal["fp32", "bf16_frequencies", "bf16"]
"""What the rotary angles are computed in (see `rotary`). `fp32`: exactly. `bf16`: positions, frequencies and angles in
bf16, as models of the original that were trained in bf16 have seen them. `bf16_frequencies`: frequencies alone are
rounded, as the original's Hugging Face code has them from files that store them in bf16."""

NETWORK_KEYS: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "use_shareqk": (False, None),
    "tie_word_embeddings": (True,),
    "causal_mask": (True,),
    "rope_scaling": (None,),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
}
"""Hugging Face keys that change the network, each with the values that this one computes."""


@dataclass(frozen=True)
class YuanConfig:
    """One Yuan network (YUAN_FACTS A2; arXiv 2311.15786, section 3.1).

    Attributes:
        vocab_size: rows of the embedding, which is also the output projection.
        hidden_size: width of the residual stream; even, since the localized filter works at half of it.
        num_hidden_layers: transformer blocks.
        num_attention_heads: heads; hidden_size / heads must be an even number (rotary pairs).
        intermediate_size: width of each SwiGLU half.
        max_position_embeddings: longest sequence, in tokens.
        rms_norm_eps: added to the mean square in every RMSNorm but the localized filter's own (always 1e-6).
        rope_theta: base of the rotary embedding.
        rope_precision: what its angles are computed in, whatever the weights' dtype; no weight depends on it.
        localized_filtering: queries and keys are projected from the locally filtered input.
        attention_reset_at_eod: no attention from one document into another; needs eod_token_id.
        eod_token_id: the token that ends a document, if there is one.
        initializer_range: standard deviation of initial weights.

    Raises:
        ValueError: naming the field, where a value is impossible.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_precision: RopePrecision = "fp32"
    localized_filtering: bool = True
    attention_reset_at_eod: bool = False
    eod_token_id: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for name in _POSITIVE_INTEGERS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: must be a whole number of at least 1, not {value!r}")
        for name in _POSITIVE_NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise ValueError(f"{name}: must be a number above 0, not {value!r}")
        for name in ("localized_filtering", "attention_reset_at_eod"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: must be true or false, not {getattr(self, name)!r}")
        if self.rope_precision not in get_args(RopePrecision):
            raise ValueError(
                f"rope_precision: must be one of {', '.join(get_args(RopePrecision))}, not {self.rope_precision!r}"
            )
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} heads must divide hidden_size {self.hidden_size} "
                "into an even head dimension"
            )
        eod = cast("object", self.eod_token_id)
        if eod is not None and (not isinstance(eod, int) or not 0 <= eod < self.vocab_size):
            raise ValueError(f"eod_token_id: {eod!r} is not in 0..{self.vocab_size - 1} (vocab_size)")
        if self.attention_reset_at_eod and eod is None:
            raise ValueError("attention_reset_at_eod: needs eod_token_id")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def parameter_count(self) -> int:
        """Returns the exact number of trainable numbers; the tied embedding counts once."""
        hidden, half, feed_forward = self.hidden_size, self.hidden_size // 2, self.intermediate_size
        lf_gate = (2 * half * hidden + half) + (2 * hidden * half + hidden) + hidden
        block = 2 * hidden + 4 * hidden**2 + self.localized_filtering * lf_gate + 3 * hidden * feed_forward
        return self.vocab_size * hidden + self.num_hidden_layers * block + hidden

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "YuanConfig":
        """Makes a config of exactly its own fields.

        Raises:
            ValueError: if a field is unknown or missing, or a value impossible.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{unknown[0]}: unknown field; expected some of {', '.join(sorted(known))}")
        missing = [name for name in _POSITIVE_INTEGERS if name not in values]
        if missing:
            raise ValueError(f"{missing[0]}: missing")
        return cls(**values)

    @classmethod
    def from_hugging_face(cls, values: Mapping[str, Any]) -> "YuanConfig":
        """Reads a published `config.json`.

        `attention_reset_at_eod` is on only if both reset flags are: the published code builds the mask from the
        ids only where `reset_position_ids` is on, so that alone `reset_attention_mask` does nothing in inference.

        Raises:
            ValueError: if a key changes the network in a way that this one does not compute, or is missing.
        """
        for key, computed in NETWORK_KEYS.items():
            if key in values and values[key] not in computed:
                raise ValueError(f"{key}: {values[key]!r} is another network; only {computed[0]!r} is computed here")
        heads = values.get("num_attention_heads")
        if values.get("num_key_value_heads", heads) != heads:
            raise ValueError("num_key_value_heads: must equal num_attention_heads; grouped heads are another network")
        missing = [name for name in _POSITIVE_INTEGERS if name not in values]
        if missing:
            raise ValueError(f"{missing[0]}: missing")
        optional = {name: values[name] for name in (*_POSITIVE_NUMBERS, *_OWN_KEYS) if name in values}
        eod = cast("int | None", values.get("eod_token", values.get("eos_token_id")))
        both_flags = bool(values.get("reset_attention_mask")) and bool(values.get("reset_position_ids"))
        required = {name: values[name] for name in _POSITIVE_INTEGERS}
        return cls(**required, **optional, eod_token_id=eod, attention_reset_at_eod=both_flags)


_POSITIVE_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_OWN_KEYS = ("rope_precision", "localized_filtering")  # what the published code has no key for; our exports do
_POSITIVE_NUMBERS = ("rms_norm_eps", "rope_theta", "initializer_range")
