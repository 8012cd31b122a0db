"""A deploy job against a real inference server, a process of its own: `LoadModel` is called, the registry remembers."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.served_models import make_cluster, publish_model, server_process
from tests.tiny_models import make_model, make_tokenizer, write_text

from yuan_converter.deployment import deploy_work
from yuan_events import InputError, Interrupted, Message, RecordingSink, WorkFailed
from yuan_jobs import WorkContext
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.deployments import deployment, deployments
from yuan_jobs.home import Home
from yuan_jobs.states import DeploymentState
from yuan_manifest import ClusterManifest
from yuan_manifest.schema import DeployInputs, DeployJob, Kind, ServingSection, Topology
from yuan_rpc import connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc


@dataclass
class Stack:
    """A home with model/tiny@1, tiny@2 and broken@1, whose inference server may run."""

    folder: Path
    file: Path
    cluster: ClusterManifest

    def context(self, model: str, **serving: object) -> tuple[WorkContext[DeployJob], RecordingSink]:
        store = ArtifactStore.open(Home.of(self.cluster.cluster))
        handle = store.open_artifact(model, "model")
        store.registry.close()
        job = DeployJob(
            kind=Kind.deploy, name="test", inputs=DeployInputs(model=model), serving=ServingSection(**serving)
        )
        sink = RecordingSink()
        context = WorkContext(
            job, Topology(), {"model": handle}, self.folder, self.folder, sink, cluster=self.cluster.cluster, job_id="j"
        )
        return context, sink

    def info(self, model: str = "") -> inference_pb2.GetModelInfoResponse:
        with connect("inference", self.cluster.cluster) as connection, connection.errors():
            stub = connection.stub(inference_pb2_grpc.InferenceServiceStub)
            return stub.GetModelInfo(inference_pb2.GetModelInfoRequest(model=model))

    def wanted(self) -> dict[str, tuple[str, DeploymentState]]:
        store = ArtifactStore.open(Home.of(self.cluster.cluster))
        try:
            return {record.name: (record.artifact, record.state) for record in deployments(store.registry)}
        finally:
            store.registry.close()


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    file, cluster = make_cluster(tmp_path)
    tokenizer = make_tokenizer(tmp_path / "tokenizer", write_text(tmp_path / "text.txt"))
    for seed, name in ((5, "tiny"), (6, "tiny"), (7, "broken")):
        folder = tmp_path / f"model-{seed}"
        make_model(folder, tokenizer.eod_id, seed=seed)
        if name == "tiny":
            shutil.copytree(tmp_path / "tokenizer", folder / "tokenizer")
        publish_model(cluster, folder, name)
    return Stack(tmp_path, file, cluster)


@pytest.fixture
def server(stack: Stack) -> Iterator["subprocess.Popen[str]"]:
    with server_process("inference", stack.file, stack.cluster) as process:
        yield process


@pytest.mark.usefixtures("server")
def test_a_deploy_job_has_the_service_load_the_model_and_replaces_the_one_before(stack: Stack) -> None:
    context, sink = stack.context("tiny@1", max_batch=3)
    summary = deploy_work(context).summary
    assert (summary["name"], summary["artifact"], summary["device"]) == ("tiny", "model/tiny@1", "cpu")
    assert stack.info().artifact == "model/tiny@1"
    said = [event.text for event in sink.events if isinstance(event, Message)]
    assert said == ['model/tiny@1 is served as tiny on cpu, fp32, context 64 tokens; yuan generate tiny "…"']
    deploy_work(stack.context("tiny@2", dtype="bf16")[0])
    assert (stack.info().artifact, stack.info().dtype) == ("model/tiny@2", "bf16")
    deploy_work(stack.context("tiny@1", name="other")[0])
    assert stack.wanted() == {
        "tiny": ("model/tiny@2", DeploymentState.READY),
        "other": ("model/tiny@1", DeploymentState.READY),
    }


@pytest.mark.slow
def test_what_is_deployed_is_served_again_after_a_restart(stack: Stack) -> None:
    with server_process("inference", stack.file, stack.cluster):
        deploy_work(stack.context("tiny@1", name="mine")[0])
    with server_process("inference", stack.file, stack.cluster) as process:
        from yuan_cli.inference import served_model

        with served_model(stack.cluster.cluster, "mine") as served:
            assert served.info.artifact == "model/tiny@1"
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_model_that_is_refused_leaves_the_deployment_as_it_was(stack: Stack) -> None:
    with pytest.raises(InputError, match=r"model/broken@1 cannot be served: .*has no tokenizer/tokenizer.model"):
        deploy_work(stack.context("broken", name="tiny")[0])
    assert stack.wanted() == {}
    deploy_work(stack.context("tiny@1")[0])
    with pytest.raises(InputError, match="cannot be served"):
        deploy_work(stack.context("broken", name="tiny")[0])
    assert stack.wanted() == {"tiny": ("model/tiny@1", DeploymentState.READY)}
    assert stack.info().artifact == "model/tiny@1"


@pytest.mark.slow
def test_a_service_that_does_not_answer_fails_the_job_and_the_wish_stays(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yuan_converter.deployment.PATIENCE_SECONDS", 0.1)
    with pytest.raises(WorkFailed, match=r"^nothing answers at .*; model/tiny@2 is loaded as tiny when the service"):
        deploy_work(stack.context("tiny")[0])
    assert stack.wanted() == {"tiny": ("model/tiny@2", DeploymentState.LOADING)}
    with server_process("inference", stack.file, stack.cluster):
        from yuan_cli.inference import served_model

        with served_model(stack.cluster.cluster) as served:
            assert served.info.artifact == "model/tiny@2"


def test_a_job_that_is_cancelled_while_it_waits_takes_its_wish_back(stack: Stack) -> None:
    from dataclasses import replace

    context, _ = stack.context("tiny")
    with pytest.raises(Interrupted):
        deploy_work(replace(context, should_stop=lambda: True))
    assert stack.wanted() == {}


def test_without_a_stack_a_deploy_job_says_what_it_needs(stack: Stack) -> None:
    from dataclasses import replace

    context, _ = stack.context("tiny")
    with pytest.raises(InputError, match="a deploy job needs a stack"):
        deploy_work(replace(context, cluster=None))
    store = ArtifactStore.open(Home.of(stack.cluster.cluster))
    assert deployment(store.registry, "tiny") is None
    store.registry.close()
