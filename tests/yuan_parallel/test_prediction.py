"""Times, warnings, sweeps and pictures of whole plans."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.yuan_parallel.cases import DEVICES, cases, division, training
from yuan_manifest.schema import (
    CostModel,
    DataSection,
    Kind,
    ModelSection,
    Nodes,
    Parallel,
    PlanJob,
    Recompute,
    Topology,
    TrainSection,
)
from yuan_parallel import Devices, Division, Prediction, StagePlan, Training
from yuan_parallel.advice import warnings_of
from yuan_parallel.picture import draw_schedule
from yuan_parallel.sweep import sweep


@settings(max_examples=60, deadline=None)
@given(cases())
def test_parts_of_a_step_are_never_negative_and_make_its_total(case: tuple[Training, Division, Devices]) -> None:
    seconds = Prediction(*case).seconds.to_dict()
    assert all(value >= 0 for value in seconds.values())
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))


def test_a_pipeline_in_one_host_does_not_wait_for_the_network() -> None:
    slow = replace(DEVICES, network=1e6)
    plan = Prediction(training(), division(pipeline=4, data=2), slow)
    assert plan.seconds.total == Prediction(training(), division(pipeline=4, data=2), DEVICES).seconds.total
    apart = Prediction(training(), division(pipeline=4, data=2), replace(slow, hosts=4, per_host=2))
    assert apart.seconds.pipeline > plan.seconds.pipeline
    assert apart.seconds.data - plan.seconds.data == pytest.approx(0, abs=1e3), "the replicas of a stage share a host"


def test_zero_3_pays_for_its_memory_with_gathered_weights() -> None:
    two, three = (Prediction(training(), division(data=4, zero_stage=stage), DEVICES) for stage in (2, 3))
    assert three.peak < two.peak
    assert three.seconds.data > two.seconds.data
    assert three.seconds.optimizer == 0


def test_uneven_stages_are_told_with_what_mends_them() -> None:
    plan = Prediction(training(), division(pipeline=2).with_stages(StagePlan((2, 6))), DEVICES)
    (line,) = (line for line in warnings_of(plan, DEVICES) if line.startswith("uneven"))
    assert "stage 1 takes" in line
    assert "topology.parallel.stages=auto ([" in line


def test_what_does_not_fit_is_told_with_a_change_that_makes_it() -> None:
    drawn = training(micro_batch_size=8, global_batch_size=64)
    needed = Prediction(replace(drawn, recompute=Recompute.full), division(), DEVICES).peak
    small = replace(DEVICES, per_host=1, memory=needed * 1.01)
    (line,) = warnings_of(Prediction(drawn, division(), small), small)
    assert line.startswith("does not fit: stage 0 needs")
    assert "train.recompute.mode=full makes it" in line


def test_what_nothing_makes_fit_says_so() -> None:
    tiny = replace(DEVICES, per_host=1, memory=1e6)
    (line,) = warnings_of(Prediction(training(), division(), tiny), tiny)
    assert line.endswith("more devices do")


def test_a_slow_network_is_told_with_what_it_is_busy_with() -> None:
    slow = replace(DEVICES, link=1e8)
    (line,) = (line for line in warnings_of(Prediction(training(), division(data=8), slow), slow) if "network" in line)
    assert "most of them data" in line
    assert "makes" in line


def test_a_long_pipeline_of_few_micro_batches_is_told() -> None:
    drawn = training(global_batch_size=8)
    lines = warnings_of(Prediction(drawn, division(pipeline=8), DEVICES), DEVICES)
    assert any(line.startswith("bubble: stages wait") and "4 micro-batches for 8 stages" in line for line in lines)


def test_idle_devices_are_told() -> None:
    lines = warnings_of(Prediction(training(), division(data=4), DEVICES), DEVICES)
    assert any(line.startswith("4 of 8 devices have nothing to do") for line in lines)


def job_and_topology(devices: int) -> tuple[PlanJob, Topology]:
    network = training().network
    names = [name for name in vars(ModelSection()) if name != "eod_token_id"]
    model = ModelSection(**{name: getattr(network, name) for name in names})
    job = PlanJob(
        kind=Kind.plan,
        name="small",
        model=model,
        data=DataSection(sequence_length=512),
        train=TrainSection(steps=10, global_batch_size=32, micro_batch_size=2),
    )
    return job, Topology(nodes=Nodes(devices=devices), parallel=Parallel())


def test_a_sweep_names_the_quickest_topology_that_fits() -> None:
    job, topology = job_and_topology(4)
    devices = replace(DEVICES, per_host=4)
    everything = sweep(job, topology, training(), devices, CostModel.exact)
    assert everything.too_large == 0
    grids = [(one.division.pipeline, one.division.tensor, one.division.data) for one in everything.fitting]
    assert {(1, 1, 4), (2, 1, 2), (4, 1, 1), (1, 2, 2), (2, 2, 1), (1, 4, 1)} == set(grids)
    totals = [one.seconds.total for one in everything.fitting]
    assert totals == sorted(totals)
    largest = max(one.peak for one in everything.fitting)
    fewer = sweep(job, topology, training(), replace(devices, memory=largest - 1), CostModel.exact)
    assert fewer.too_large > 0
    assert all(one.peak < largest for one in fewer.fitting)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_shows_every_stage(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"schedule.{suffix}"
    draw_schedule(Prediction(training(), division(pipeline=3), DEVICES), path, title="small")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(content) > 5000
