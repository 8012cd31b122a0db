"""The trainer service's call, and the call that a run makes to the data service before it starts."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.small_stack import SmallStack, pretraining
from yuan_events import InputError, Metrics, NullSink
from yuan_jobs import Work, WorkContext, WorkResult
from yuan_jobs.execution import execute
from yuan_jobs.wiring import artifact_inputs
from yuan_manifest import ClusterManifest, job_of_plain, resolve_topology
from yuan_rpc import RpcRefused
from yuan_rpc.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from yuan_trainer.history import HISTORY_NAME, HistorySink
from yuan_trainer.preparation import check_inputs


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> SmallStack:
    return SmallStack(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="module")
def data_server(stack: SmallStack) -> Iterator[SmallStack]:
    with stack.serving("data"):
        yield stack


Prepare = Callable[..., WorkContext[Any]]


@pytest.fixture
def prepare(stack: SmallStack, tmp_path: Path) -> Prepare:
    """Returns what the work of a run gets from a worker, or with `stack=None` in the foreground."""

    def prepare(cluster: ClusterManifest | None = stack.manifest, **changes: object) -> WorkContext[Any]:
        job = job_of_plain({"version": 1, **pretraining(**changes)})
        inputs = {name: stack.store.open_artifact(ref, kind) for name, (kind, ref) in artifact_inputs(job).items()}
        return WorkContext(
            job=job,
            topology=resolve_topology(job, stack.manifest),
            inputs=inputs,
            output=tmp_path,
            run=tmp_path,
            sink=NullSink(),
            cluster=None if cluster is None else cluster.cluster,
        )

    return prepare


def test_a_run_of_a_worker_asks_the_data_service_for_every_dataset(data_server: SmallStack, prepare: Prepare) -> None:
    before = data_server.calls("data", "DescribeDataset")
    datasets = [{"name": "small", "weight": 2.0}, {"name": "small@1"}]
    check_inputs(prepare(inputs={"tokenizer": "small", "datasets": datasets}))
    assert data_server.calls("data", "DescribeDataset") == before + 2
    check_inputs(prepare(None))
    assert data_server.calls("data", "DescribeDataset") == before + 2, "without a stack its files are read"


@pytest.mark.usefixtures("data_server")
@pytest.mark.parametrize("foreground", [False, True])
def test_a_dataset_that_does_not_fit_is_refused(prepare: Prepare, stack: SmallStack, foreground: bool) -> None:
    cluster = None if foreground else stack.manifest
    inputs = {"tokenizer": "other", "datasets": [{"name": "small"}]}
    with pytest.raises(InputError, match="dataset/small@1 was cut by another tokenizer than tokenizer/other@1"):
        check_inputs(prepare(cluster, inputs=inputs))
    model: dict[str, object] = {**pretraining()["model"], "vocab_size": 300}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"model\.vocab_size"):
        check_inputs(prepare(cluster, model=model))


def test_a_split_that_leaves_a_part_without_text_is_refused_before_any_rank_starts(prepare: Prepare) -> None:
    def check(*split: float, samples: int = 4) -> None:
        data = {"sequence_length": 32, "split": list(split)}
        check_inputs(prepare(None, data=data, evaluation={"samples": samples}))

    refused = r"data\.split\[1\]: a share of 0\.001 of the \d+ documents of dataset/small@1 is no text to validate on"
    with pytest.raises(InputError, match=refused):
        check(0.998, 0.001, 0.001)
    with pytest.raises(InputError, match=r"data\.split\[0\]: a share of 1e-09 .* is no text to train on"):
        check(1e-9, 1, 0)
    check(0.998, 0.001, 0.001, samples=0)


@pytest.mark.usefixtures("data_server")
def test_a_dataset_that_the_data_service_knows_as_another_is_refused(prepare: Prepare) -> None:
    context = prepare()
    key = "datasets[0].name"
    other = replace(context.inputs[key], digest="0" * 64)
    with pytest.raises(InputError, match=r"the data service at .* has another dataset/small@1"):
        check_inputs(replace(context, inputs={**context.inputs, key: other}))


def test_metrics_are_streamed_from_the_first_step_until_the_run_ends(stack: SmallStack) -> None:
    go_on = threading.Event()
    started = threading.Event()

    def work(context: WorkContext[Any]) -> WorkResult:
        sink = HistorySink(context.run / HISTORY_NAME, NullSink(), context.attempt)
        sink.emit(Metrics(1, {"loss": 5.0, "learning_rate": 0.1}))
        started.set()
        assert go_on.wait(400)  # a server starts meanwhile
        sink.emit(Metrics(2, {"loss": 4.0}))
        (context.output / "made").write_text("x")
        return WorkResult()

    job = job_of_plain({"version": 1, **pretraining(name="watched", outputs={"model": "watched"})})
    arguments = (job, resolve_topology(job, stack.manifest), stack.manifest.cluster, Work(run=work), NullSink())
    run = threading.Thread(target=execute, args=arguments)
    run.start()
    try:
        assert started.wait(60)
        job_id = next(folder.name for folder in (stack.home / "runs").glob("watched-*"))
        with stack.serving("trainer") as connection:
            stub = connection.stub(trainer_pb2_grpc.TrainerServiceStub)
            stream = stub.WatchMetrics(trainer_pb2.WatchMetricsRequest(job_id=job_id), timeout=120)
            first = next(stream)
            assert stack.metric("trainer", f'yuan_trainer_loss{{job="{job_id}",name="watched"}}') == 5.0
            assert (first.step, first.attempt, dict(first.values)) == (1, 1, {"loss": 5.0, "learning_rate": 0.1})
            go_on.set()
            assert [(row.step, dict(row.values)) for row in stream] == [(2, {"loss": 4.0})]
            late = stub.WatchMetrics(trainer_pb2.WatchMetricsRequest(job_id=job_id, after_step=1), timeout=120)
            assert [row.step for row in late] == [2]
            for wrong, code in (("nothing", grpc.StatusCode.NOT_FOUND), ("small-", grpc.StatusCode.INVALID_ARGUMENT)):
                with pytest.raises(RpcRefused) as caught, connection.errors():
                    list(stub.WatchMetrics(trainer_pb2.WatchMetricsRequest(job_id=wrong), timeout=120))
                assert caught.value.code == code
    finally:
        go_on.set()
        run.join(60)


def test_a_watch_ends_when_the_server_drains(stack: SmallStack, tmp_path: Path) -> None:
    go_on, started = threading.Event(), threading.Event()

    def work(context: WorkContext[Any]) -> WorkResult:
        started.set()
        assert go_on.wait(400)  # a server starts meanwhile
        (context.output / "made").write_text("x")
        return WorkResult()

    job = job_of_plain({"version": 1, **pretraining(name="endless", outputs={"model": "endless"})})
    arguments = (job, resolve_topology(job, stack.manifest), stack.manifest.cluster, Work(run=work), NullSink())
    run = threading.Thread(target=execute, args=arguments)
    run.start()
    try:
        assert started.wait(60)
        job_id = next(folder.name for folder in (stack.home / "runs").glob("endless-*"))
        with stack.serving("trainer") as connection:
            stub = connection.stub(trainer_pb2_grpc.TrainerServiceStub)
            stream = stub.WatchMetrics(trainer_pb2.WatchMetricsRequest(job_id=job_id), timeout=120)
            time.sleep(0.5)
        # Leaving the block has ended the server, which waits for calls that may end.
        with pytest.raises(grpc.RpcError):
            list(stream)
    finally:
        go_on.set()
        run.join(60)
