"""Which number format and which attention a run gets where it runs."""

import pytest

from yuan_events import InputError
from yuan_manifest.choices import AttentionBackend, Precision
from yuan_model import flash_installed
from yuan_trainer.hardware import resolve_attention, resolve_precision


@pytest.mark.parametrize("wanted", [AttentionBackend.auto, AttentionBackend.sdpa])
def test_attention_on_the_processor_is_torchs_own(wanted: AttentionBackend) -> None:
    assert resolve_attention(wanted, "cpu", Precision.fp32) == AttentionBackend.sdpa


@pytest.mark.parametrize(
    ("device", "precision", "reason"),
    [
        ("cpu", Precision.bf16, "needs a CUDA device"),
        ("cuda", Precision.fp32, "set train.precision=bf16"),
        pytest.param(
            "cuda",
            Precision.bf16,
            r"install the extra `gpu` \(pip install 'yuan-stack\[gpu\]'\)",
            marks=pytest.mark.skipif(flash_installed(), reason="flash-attn is installed"),
        ),
    ],
)
def test_flash_attention_is_refused_where_it_cannot_be_with_what_it_needs(
    device: str, precision: Precision, reason: str
) -> None:
    with pytest.raises(InputError, match=rf"train\.attention: flash .*{reason}") as refused:
        resolve_attention(AttentionBackend.flash, device, precision)
    assert "\n" not in str(refused.value)
    assert resolve_attention(AttentionBackend.auto, device, precision) == AttentionBackend.sdpa


def test_fp16_on_the_processor_is_refused_and_auto_is_never_fp16() -> None:
    with pytest.raises(InputError, match=r"^train\.precision: fp16 needs a CUDA device .* use bf16 or fp32$"):
        resolve_precision(Precision.fp16, "cpu")
    assert resolve_precision(Precision.fp16, "cuda") == Precision.fp16
    assert resolve_precision(Precision.auto, "cpu") in (Precision.bf16, Precision.fp32)
