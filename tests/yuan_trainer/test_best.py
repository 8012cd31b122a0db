"""The best weights of a run are published, the last ones beside them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from yuan_checkpoint.training_state import finished_states, open_state
from yuan_events import Message
from yuan_manifest.schema import CheckpointSection, Decay, OptimizerSection
from yuan_model import cross_entropy, load_model
from yuan_trainer.batches import micro_batch
from yuan_trainer.samples import open_samples
from yuan_trainer.specification import Specification

from .conftest import Runner


def validation_loss(specification: Specification, folder: Path) -> float:
    samples = open_samples(specification).validation
    assert samples is not None
    inputs, (labels, _) = micro_batch(samples, 0, specification.validation_samples, None)
    with torch.no_grad():
        return float(cross_entropy(load_model(folder)(inputs), labels))


@pytest.mark.slow
def test_the_model_has_the_weights_of_the_lowest_validation_loss(specification: Specification, run: Runner) -> None:
    specification = replace(
        specification,
        optimizer=OptimizerSection(lr=8.0, warmup_steps=20, decay=Decay.constant),  # it gets worse and worse
        checkpoint=CheckpointSection(best=True),
        checkpoint_steps=6,
        validation_steps=2,
        validation_samples=16,
    )
    run(specification, stages=(1, 3))
    measured = run.metric("validation_loss")
    del measured[0]
    best, last = min(measured, key=lambda step: measured[step]), 20
    assert best != last, "the run must get worse again, or this shows nothing"
    assert validation_loss(specification, specification.output) == pytest.approx(measured[best], abs=1e-5)
    assert validation_loss(specification, specification.output / "last") == pytest.approx(measured[last], abs=1e-5)
    told = [event.text for event in run.sink.events if isinstance(event, Message)]
    assert [text for text in told if f"after step {best}; those after step 20 are in its folder last" in text]
    kept = [folder.name for folder in (specification.state_root.parent / "best").iterdir()]
    assert kept == [f"step-{best:08d}"]
    state = open_state(finished_states(specification.state_root)[0])
    until = {step: loss for step, loss in measured.items() if step <= state.step}
    assert state.metadata["best"]["loss"] == min(until.values())
