"""The trajectory of a run does not depend on how its work is divided over ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from yuan_manifest.schema import Precision
from yuan_model import cross_entropy, load_model
from yuan_trainer.batches import micro_batch
from yuan_trainer.samples import open_samples
from yuan_trainer.specification import Specification

from .conftest import Runner
from .oracle import oracle_losses


@pytest.mark.parametrize(
    ("stages", "replicas"),
    [((4,), 1), ((1, 3), 1), ((3, 1), 1), pytest.param((4,), 2, marks=pytest.mark.slow)],
    ids=["one rank", "stages 1 and 3", "stages 3 and 1", "two replicas"],
)
def test_losses_equal_those_of_a_plain_torch_loop(
    specification: Specification, run: Runner, stages: tuple[int, ...], replicas: int
) -> None:
    expected = oracle_losses(specification, 20)
    losses = run(specification, stages=stages, replicas=replicas)
    assert list(losses) == list(range(1, 21))
    assert list(losses.values()) == pytest.approx(expected, abs=1e-4)
    assert expected[-1] < expected[0] - 0.2, "the run must learn something, or equality shows nothing"


def test_attention_that_stops_at_document_ends_trains_alike_in_two_stages(
    specification: Specification, run: Runner
) -> None:
    specification = replace(specification, model=replace(specification.model, attention_reset_at_eod=True))
    expected = oracle_losses(specification, 20)
    assert list(run(specification, stages=(1, 3)).values()) == pytest.approx(expected, abs=1e-4)


def test_positions_after_a_document_end_can_be_left_out_of_the_loss(specification: Specification, run: Runner) -> None:
    specification = replace(specification, train=replace(specification.train, eod_mask_loss=True, steps=5))
    expected = oracle_losses(specification, 5)
    assert list(run(specification, stages=(2, 2)).values()) == pytest.approx(expected, abs=1e-4)


def test_bf16_with_fp32_masters_stays_close_to_fp32(specification: Specification, run: Runner) -> None:
    expected = oracle_losses(specification, 20)
    bf16 = replace(specification, train=replace(specification.train, precision=Precision.bf16))
    losses = run(bf16, stages=(1, 3))
    differences = [abs(found - wanted) for found, wanted in zip(losses.values(), expected, strict=True)]
    assert sum(differences) / len(differences) <= 0.02
    assert max(differences) > 0, "bf16 must really have been used"


def test_the_written_model_has_the_loss_that_validation_measured(
    specification: Specification, run: Runner, tmp_path: Path
) -> None:
    run(specification, stages=(1, 3), validation_samples=16)
    measured = run.metric("validation_loss")
    assert list(measured) == [0, 20]
    model = load_model(specification.output)
    samples = open_samples(replace(specification, validation_samples=16)).validation
    assert samples is not None
    inputs, (labels, _) = micro_batch(samples, 0, 16, None)
    with torch.no_grad():
        loss = cross_entropy(model(inputs), labels)
    assert float(loss) == pytest.approx(measured[20], abs=1e-5)
    assert measured[20] < measured[0] - 0.2
