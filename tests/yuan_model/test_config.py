"""What a config accepts, refuses and counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yuan_model import Yuan, YuanConfig, parameter_shapes

PUBLISHED = {
    "vocab_size": 135040,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "intermediate_size": 8192,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "eod_token": 77185,
    "eos_token_id": 77185,
}


@pytest.mark.parametrize(
    ("sizes", "billions"),
    [((24, 2048, 32, 8192), 2.09), ((42, 8192, 64, 32768), 51.8), ((84, 8192, 64, 32768), 102.6)],
)
def test_the_published_models_have_the_published_sizes(sizes: tuple[int, int, int, int], billions: float) -> None:
    layers, hidden, heads, feed_forward = sizes
    config = YuanConfig(135040, hidden, layers, heads, feed_forward, 4096)
    assert config.parameter_count() / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize("localized_filtering", [True, False])
def test_the_parameter_count_is_exact(localized_filtering: bool, small_config: Callable[..., YuanConfig]) -> None:
    config = small_config(localized_filtering=localized_filtering)
    assert config.parameter_count() == sum(parameter.numel() for parameter in Yuan(config).parameters())
    assert config.parameter_count() == sum(shape.numel() for shape in parameter_shapes(config).values())


def test_to_dict_and_from_dict_are_inverse_through_json(small_config: Callable[..., YuanConfig]) -> None:
    config = small_config(rope_theta=5000.0, rope_precision="bf16_frequencies")
    assert YuanConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"hidden_size": 24.0}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_attention_heads": 8}, "num_attention_heads"),  # a head dimension of 3 has no rotary pairs
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
        ({"rope_precision": "fp16"}, "rope_precision"),
        ({"localized_filtering": "yes"}, "localized_filtering"),
        ({"eod_token_id": 40}, "eod_token_id"),
        ({"eod_token_id": None, "attention_reset_at_eod": True}, "attention_reset_at_eod"),
        ({"hiden_size": 24}, "hiden_size"),
    ],
)
def test_an_impossible_value_is_refused_by_the_fields_name(
    changes: dict[str, Any], field: str, small_config: Callable[..., YuanConfig]
) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        small_config(**changes)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"use_shareqk": True}, "use_shareqk"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"causal_mask": False}, "causal_mask"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"eod_token": 135040}, "eod_token_id"),
    ],
)
def test_a_hugging_face_config_of_another_network_is_refused_by_the_keys_name(
    changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        YuanConfig.from_hugging_face({**PUBLISHED, **changes})


def test_a_hugging_face_config_without_a_size_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^intermediate_size: missing"):
        YuanConfig.from_hugging_face({key: value for key, value in PUBLISHED.items() if key != "intermediate_size"})


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_attention_resets_only_if_both_published_flags_are_on(mask: bool, positions: bool) -> None:
    values = {**PUBLISHED, "reset_attention_mask": mask, "reset_position_ids": positions}
    assert YuanConfig.from_hugging_face(values).attention_reset_at_eod == (mask and positions)


def test_the_end_of_document_is_eod_token_or_else_eos_token_id() -> None:
    assert YuanConfig.from_hugging_face({**PUBLISHED, "eod_token": 5}).eod_token_id == 5
    without = {key: value for key, value in PUBLISHED.items() if key != "eod_token"}
    assert YuanConfig.from_hugging_face({**without, "eos_token_id": 6}).eod_token_id == 6


def test_the_golden_config_is_read(golden_folder: Path) -> None:
    config = YuanConfig.from_hugging_face(json.loads((golden_folder / "config.json").read_text()))
    assert config == YuanConfig(320, 64, 3, 4, 176, 128, attention_reset_at_eod=True, eod_token_id=300)
