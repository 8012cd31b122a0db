"""Configuration of Yuan 2.0 for `transformers`; goes into every exported folder and imports nothing but `transformers`.

Fields are those of the published configs, and three that these have no key for: `rope_theta`, `rope_precision` and
`localized_filtering`. What the network does not compute is refused when the configuration is made.
"""

from typing import Any, ClassVar

from transformers import PretrainedConfig

ROPE_PRECISIONS = ("fp32", "bf16_frequencies", "bf16")
_COMPUTED = {
    "hidden_act": ("silu",),
    "use_shareqk": (False, None),
    "causal_mask": (True,),
    "rope_scaling": (None,),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
}


class YuanConfig(PretrainedConfig):
    """Sizes and switches of a Yuan network.

    Args:
        vocab_size: rows of the embedding, which is also the output projection.
        hidden_size: width of the residual stream.
        intermediate_size: width of each SwiGLU half.
        num_hidden_layers: transformer blocks.
        num_attention_heads: heads; each has hidden_size / heads numbers.
        max_position_embeddings: longest sequence that the model was made for.
        rms_norm_eps: added to the mean square in every norm but the localized filter's own (always 1e-6).
        rope_theta: base of the rotary embedding.
        rope_precision: what rotary angles are computed in, whatever the weights' dtype. `fp32`: exactly. `bf16`:
            positions, frequencies and angles in bf16, as the published models were trained. `bf16_frequencies`: the
            frequencies alone, as the published code has them from files that store them in bf16.
        localized_filtering: queries and keys are projected from the locally filtered input.
        reset_attention_mask: with reset_position_ids: no attention from one document, which ends with `eod_token`, into
            another. One of the two alone changes nothing.
        reset_position_ids: see there. Positions themselves count on.
        eod_token: the token that ends a document; None: eos_token_id.
        initializer_range: standard deviation of initial weights.
        use_cache: whether outputs carry a cache unless told otherwise.
        tie_word_embeddings: True; the output projection is the embedding.
        **kwargs: what every configuration has, and keys of the published configs that have no effect here.

    Raises:
        ValueError: if a key asks for another network than this one.
    """

    model_type = "yuan"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        vocab_size: int = 135040,
        hidden_size: int = 2048,
        intermediate_size: int = 8192,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 32,
        max_position_embeddings: int = 8192,
        rms_norm_eps: float = 1e-6,
        rope_theta: float = 10000.0,
        rope_precision: str = "fp32",
        localized_filtering: bool = True,
        reset_attention_mask: bool = False,
        reset_position_ids: bool = False,
        eod_token: int | None = None,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        if rope_precision not in ROPE_PRECISIONS:
            raise ValueError(f"rope_precision: {rope_precision!r} is none of {', '.join(ROPE_PRECISIONS)}")
        if not tie_word_embeddings:
            raise ValueError("tie_word_embeddings: False is another network; Yuan's output projection is its embedding")
        for key, computed in _COMPUTED.items():
            if kwargs.get(key, computed[0]) not in computed:
                raise ValueError(f"{key}: {kwargs[key]!r} is another network; only {computed[0]!r} is computed here")
        if hidden_size % num_attention_heads or hidden_size // num_attention_heads % 2:
            raise ValueError(
                f"num_attention_heads: {num_attention_heads} must divide hidden_size {hidden_size} into an even number"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads  # what other libraries look for
        self.head_dim = hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = "silu"
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.rope_precision = rope_precision
        self.localized_filtering = localized_filtering
        self.reset_attention_mask = reset_attention_mask
        self.reset_position_ids = reset_position_ids
        self.eod_token = eod_token if eod_token is not None else kwargs.get("eos_token_id")
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        for key in ("hidden_act", "num_key_value_heads", "head_dim", "rope_scaling"):  # said above, or nothing
            kwargs.pop(key, None)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    @property
    def attention_reset_at_eod(self) -> bool:
        """Whether attention ends at documents' ends."""
        return bool(self.reset_attention_mask and self.reset_position_ids)
