"""The trajectory of a run does not depend on how its work is divided over ranks."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from yuan_events import Message
from yuan_manifest.schema import Precision, Recompute, RecomputeSection
from yuan_model import cross_entropy, load_model
from yuan_trainer.batches import micro_batch
from yuan_trainer.samples import open_samples
from yuan_trainer.specification import Specification

from .conftest import ForkingRunner
from .oracle import oracle_losses

SLOW = pytest.mark.slow
TOPOLOGIES = {
    "one rank": ({}, ()),
    "data 2": ({"replicas": 2}, SLOW),
    "pipeline 2, stages 1 and 3": ({"stages": (1, 3)}, ()),
    "pipeline 2, stages 3 and 1": ({"stages": (3, 1)}, SLOW),
    "tensor 2": ({"tensor": 2}, SLOW),
    "tensor 2, sequence": ({"tensor": 2, "sequence": True}, ()),
    "pipeline 2, data 2": ({"stages": (1, 3), "replicas": 2}, SLOW),
    "pipeline 2, tensor 2": ({"stages": (1, 3), "tensor": 2}, SLOW),
    "pipeline 2, tensor 2, sequence": ({"stages": (3, 1), "tensor": 2, "sequence": True}, SLOW),
    "data 2, tensor 2": ({"replicas": 2, "tensor": 2}, SLOW),
    "ZeRO 0, one rank": ({"zero_stage": 0}, SLOW),
    "ZeRO 0, data 2": ({"zero_stage": 0, "replicas": 2}, SLOW),
    "ZeRO 0, tensor 2": ({"zero_stage": 0, "tensor": 2}, SLOW),
    "ZeRO 2, data 2": ({"zero_stage": 2, "replicas": 2}, SLOW),
    "ZeRO 3, data 2": ({"zero_stage": 3, "replicas": 2}, SLOW),
}
"""How the same 20 steps are divided; the README's table is made of these."""

cases = pytest.mark.parametrize(
    "topology", [pytest.param(fields, marks=marks, id=name) for name, (fields, marks) in TOPOLOGIES.items()]
)


@cases
def test_losses_equal_those_of_a_plain_torch_loop(
    specification: Specification, quick_run: ForkingRunner, topology: dict[str, Any]
) -> None:
    expected = oracle_losses(specification, 20)
    losses = quick_run(specification, **topology)
    assert list(losses) == list(range(1, 21))
    assert list(losses.values()) == pytest.approx(expected, abs=1e-4)
    assert expected[-1] < expected[0] - 0.2, "the run must learn something, or equality shows nothing"


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param({"stages": (1, 3)}, id="pipeline 2"),
        pytest.param(
            {"stages": (1, 3), "tensor": 2, "sequence": True}, id="pipeline 2, tensor 2, sequence", marks=SLOW
        ),
        pytest.param({"zero_stage": 3, "replicas": 2}, id="ZeRO 3", marks=SLOW),
    ],
)
def test_attention_and_positions_that_begin_anew_with_each_document_train_alike(
    specification: Specification, quick_run: ForkingRunner, topology: dict[str, Any]
) -> None:
    specification = replace(
        specification,
        model=replace(specification.model, attention_reset_at_eod=True),
        data=replace(specification.data, reset_position_ids=True),
    )
    expected = oracle_losses(specification, 20)
    assert list(quick_run(specification, **topology).values()) == pytest.approx(expected, abs=1e-4)


def test_positions_after_a_document_end_can_be_left_out_of_the_loss(
    specification: Specification, quick_run: ForkingRunner
) -> None:
    specification = replace(specification, train=replace(specification.train, eod_mask_loss=True, steps=5))
    expected = oracle_losses(specification, 5)
    assert list(quick_run(specification, stages=(2, 2)).values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param({"stages": (1, 3)}, id="pipeline 2"),
        pytest.param({}, id="one rank", marks=SLOW),
        pytest.param({"replicas": 2}, id="data 2", marks=SLOW),
        pytest.param({"stages": (1, 3), "replicas": 2}, id="pipeline 2, data 2", marks=SLOW),
        pytest.param({"tensor": 2}, id="tensor 2", marks=SLOW),
        pytest.param(
            {"stages": (3, 1), "tensor": 2, "sequence": True}, id="pipeline 2, tensor 2, sequence", marks=SLOW
        ),
        pytest.param({"zero_stage": 2, "replicas": 2}, id="ZeRO 2", marks=SLOW),
        pytest.param({"zero_stage": 3, "replicas": 2}, id="ZeRO 3", marks=SLOW),
    ],
)
def test_bf16_with_fp32_masters_stays_close_to_fp32(
    specification: Specification, quick_run: ForkingRunner, topology: dict[str, Any]
) -> None:
    specification = replace(specification, train=replace(specification.train, steps=50))
    expected = oracle_losses(specification, 50)
    losses = quick_run(specification, train=replace(specification.train, precision=Precision.bf16), **topology)
    differences = [abs(found - wanted) for found, wanted in zip(losses.values(), expected, strict=True)]
    assert sum(differences) / len(differences) <= 0.02
    assert max(differences) > 0, "bf16 must really have been used"


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param({"stages": (1, 3)}, id="pipeline 2"),
        pytest.param({"stages": (1, 3), "tensor": 2}, id="pipeline 2, tensor 2", marks=SLOW),
        pytest.param({"replicas": 2, "zero_stage": 3}, id="ZeRO 3", marks=SLOW),
    ],
)
def test_the_written_model_has_the_loss_that_validation_measured(
    specification: Specification, quick_run: ForkingRunner, topology: dict[str, Any]
) -> None:
    quick_run(specification, validation_samples=16, **topology)
    measured = quick_run.metric("validation_loss")
    assert list(measured) == [0, 20]
    model = load_model(specification.output)
    samples = open_samples(replace(specification, validation_samples=16)).validation
    assert samples is not None
    inputs, (labels, _) = micro_batch(samples, 0, 16, None)
    with torch.no_grad():
        loss = cross_entropy(model(inputs), labels)
    assert float(loss) == pytest.approx(measured[20], abs=1e-5)
    assert measured[20] < measured[0] - 0.2


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param({"stages": (1, 3)}, id="pipeline 2"),
        pytest.param({"tensor": 2, "sequence": True}, id="tensor 2, sequence", marks=SLOW),
        pytest.param({"zero_stage": 3, "replicas": 2}, id="ZeRO 3", marks=SLOW),
    ],
)
@pytest.mark.parametrize("mode", [pytest.param(Recompute.selective, marks=SLOW), Recompute.full])
def test_what_is_computed_again_changes_no_loss(
    specification: Specification, quick_run: ForkingRunner, topology: dict[str, Any], mode: Recompute
) -> None:
    expected = oracle_losses(specification, 20)
    recompute = RecomputeSection(mode=mode, every_layers=2)
    losses = quick_run(specification, train=replace(specification.train, recompute=recompute), **topology)
    assert list(losses.values()) == pytest.approx(expected, abs=1e-4)


def test_without_the_compiled_parts_a_run_says_so_and_trains_alike(
    specification: Specification, quick_run: ForkingRunner
) -> None:
    specification = replace(specification, train=replace(specification.train, steps=5))
    quick_run.environment = {"YUAN_NATIVE": "off"}
    losses = quick_run(specification)
    assert list(losses.values()) == pytest.approx(oracle_losses(specification, 5), abs=1e-4)
    told = [event.text for event in quick_run.sink.events if isinstance(event, Message) and "compiled" in event.text]
    assert told == ["torch computes what lies between matrix products, slower than compiled: YUAN_NATIVE is off"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the processor")
def test_compiled_blocks_train_alike(specification: Specification, quick_run: ForkingRunner) -> None:
    expected = oracle_losses(specification, 20)
    losses = quick_run(specification, train=replace(specification.train, compile=True), stages=(1, 3))
    assert list(losses.values()) == pytest.approx(expected, abs=1e-4)
