"""What TensorBoard and Weights & Biases see of a run."""

import importlib.util
from pathlib import Path

import pytest

from yuan_events import InputError, Metrics, RecordingSink
from yuan_manifest.schema import TrackingSection, WandbSection
from yuan_trainer.tracking import check_tracking, tracked


def test_tensorboard_sees_every_metric_and_of_steps_that_were_measured_twice_the_later_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = RecordingSink()
    for first, losses in ((1, (5.0, 4.0, 3.0)), (3, (3.5, 2.5))):  # the second attempt goes on after step 2
        with tracked(sink, TrackingSection(), run=tmp_path, name="small", recipe={}) as both:
            for step, loss in enumerate(losses, first):
                both.emit(Metrics(step, {"loss": loss, "mfu": 0.5}))
    assert len(sink.events) == 5
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "mfu"}
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 5.0), (2, 4.0), (3, 3.5), (4, 2.5)]


def test_without_tensorboard_no_file_is_written(tmp_path: Path) -> None:
    with tracked(RecordingSink(), TrackingSection(tensorboard=False), run=tmp_path, name="a", recipe={}) as sink:
        sink.emit(Metrics(1, {"loss": 1.0}))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="Weights & Biases is installed")
def test_weights_and_biases_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^tracking\.wandb: .*pip install 'yuan-stack\[tracking\]'`, or set"):
        check_tracking(TrackingSection(wandb=WandbSection("project")))


def test_weights_and_biases_keeps_a_run_in_files_where_it_is_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra `tracking` is not installed")
    section = TrackingSection(tensorboard=False, wandb=WandbSection("project", mode="offline"))
    check_tracking(section)
    with tracked(RecordingSink(), section, run=tmp_path, name="small", recipe={"kind": "pretrain"}) as sink:
        sink.emit(Metrics(1, {"loss": 5.0}))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
