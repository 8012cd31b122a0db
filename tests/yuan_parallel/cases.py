"""Trainings, divisions and devices for the tests of the cost and memory model."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from yuan_manifest.schema import Precision, Recompute
from yuan_model import YuanConfig
from yuan_parallel import Devices, Division, Training, uniform_stages

SIZES = {
    "2b": YuanConfig(135040, 2048, 24, 32, 8192, 8192),
    "51b": YuanConfig(135040, 8192, 42, 64, 32768, 4096),
    "102b": YuanConfig(135040, 8192, 84, 64, 32768, 4096),
}

TRAINING = Training(
    network=YuanConfig(8192, 256, 8, 4, 704, 1024),
    sequence_length=512,
    global_batch_size=32,
    micro_batch_size=2,
    precision=Precision.bf16,
    recompute=Recompute.none,
    recompute_every=1,
    loss_block_tokens=None,
    optimizer="adamw",
    lora=None,
    tokens=10**9,
)

DEVICES = Devices(hosts=1, per_host=8, memory=80.0 * 2**30, speed=171.6e12, peak=312e12, link=300e9, network=25e9)


def training(**changes: Any) -> Training:
    """Returns the small training with other values."""
    return replace(TRAINING, **changes)


def division(pipeline: int = 1, tensor: int = 1, data: int = 1, zero_stage: int = 1, layers: int = 8) -> Division:
    """Returns a division into even stages."""
    return Division(uniform_stages(layers, pipeline), tensor, data, zero_stage, sequence=tensor > 1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Training, Division, Devices]:
    """Draws a training, how it is divided, and devices that may be too small for it."""
    heads = draw(st.sampled_from([2, 4, 8]))
    network = YuanConfig(
        vocab_size=draw(st.sampled_from([512, 32000, 135040])),
        hidden_size=heads * draw(st.sampled_from([16, 64, 128])),
        num_hidden_layers=draw(st.integers(1, 24)),
        num_attention_heads=heads,
        intermediate_size=draw(st.sampled_from([256, 2048])),
        max_position_embeddings=8192,
        localized_filtering=draw(st.booleans()),
    )
    pipeline = draw(st.integers(1, min(8, network.num_hidden_layers)))
    data, micro, each = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 24))
    drawn = Training(
        network=network,
        sequence_length=draw(st.sampled_from([64, 1024, 8192])),
        global_batch_size=data * micro * each,
        micro_batch_size=micro,
        precision=draw(st.sampled_from([Precision.fp32, Precision.bf16])),
        recompute=draw(st.sampled_from(list(Recompute))),
        recompute_every=draw(st.integers(1, 3)),
        loss_block_tokens=draw(st.sampled_from([None, 0, 128])),
        optimizer="adamw",
        lora=None,
        tokens=10**9,
    )
    devices = Devices(
        hosts=draw(st.sampled_from([1, 4])),
        per_host=draw(st.sampled_from([2, 8])),
        memory=draw(st.sampled_from([None, 2.0**30, 2.0**33, 2.0**36])),
        speed=draw(st.sampled_from([1e11, 1e14])),
        peak=3e14,
        link=draw(st.sampled_from([1e8, 1e11, float("inf")])),
        network=draw(st.sampled_from([1e8, 1e10])),
    )
    zero_stage = 1 if pipeline > 1 else draw(st.integers(0, 3))
    return drawn, division(pipeline, 1, data, zero_stage, network.num_hidden_layers), devices
