"""docker-compose.yml for real: images built, the stack up, a pipeline through it, the trainer killed, nothing left.

Needs root on Debian with the developers' `../shared/tools/local-images.sh`, which brings a Docker engine and base
images, or a Docker engine that can pull them. The first build takes some ten minutes; its layers stay for the next.
"""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from yuan_manifest import load_cluster
from yuan_rpc import connect
from yuan_rpc.trainer.v1 import trainer_pb2, trainer_pb2_grpc

from .conftest import User

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

STEPS = 300
SERVICES = ("data", "trainer", "converter", "evaluator", "inference", "gateway")
TEXT = '["python-stdlib:json/*.py", "python-stdlib:email/*.py"]'
PIPELINE = """
version: 1
kind: pipeline
name: small
steps:
  tokenizer:
    manifest: {jobs}/tokenizer-demo.yaml
    overrides: {{inputs: {{text: {text}}}, tokenizer: {{vocab_size: 512}}}}
  tokenize:
    manifest: {jobs}/tokenize-demo.yaml
    needs: [tokenizer]
    overrides: {{inputs: {{text: {text}}}}}
  pretrain:
    manifest: {jobs}/pretrain-demo.yaml
    needs: [tokenizer, tokenize]
    overrides:
      model: {{vocab_size: 512, hidden_size: 32, intermediate_size: 64}}
      data: {{sequence_length: 64, split: [0.8, 0.2, 0]}}
      train: {{steps: {steps}}}
      checkpoint: {{every_steps: 50}}
      evaluation: {{every_steps: 150, samples: 8}}
"""


def output_of(*command: str) -> str:
    """Returns what a command prints; it must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def succeeds(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    )


def has_docker() -> bool:
    return succeeds("docker", "info")


def can_pull() -> bool:
    return has_docker() and succeeds("docker", "manifest", "inspect", "python:3.11-slim-bookworm")


@pytest.fixture(scope="module")
def build_environment(repository: Path) -> Iterator[dict[str, str]]:
    """A Docker engine with the base images; what the builds need in their environment."""
    tool = repository.parent / "shared" / "tools" / "local-images.sh"
    release = Path("/etc/os-release")
    debian = release.is_file() and "ID=debian" in release.read_text().splitlines()
    if not (os.geteuid() == 0 and debian and tool.is_file()):
        if not can_pull():
            pytest.skip("needs root on Debian with ../shared/tools/local-images.sh, or Docker and an image registry")
        yield {}
        return
    ours = not has_docker()
    if subprocess.call(["bash", str(tool), "redis", "postgres"]) != 0:
        pytest.skip("no Docker engine runs on this machine, though ../shared/tools/local-images.sh tried")
    yield {"YUAN_BUILD_NETWORK": "host"}
    if ours:
        subprocess.run(["bash", str(tool), "stop"], check=True)


class Composed:
    """The stack of docker-compose.yml as a project of its own, on ports of its own."""

    def __init__(self, repository: Path, folder: Path, build: dict[str, str]) -> None:
        self.project = f"yuan-test-{os.getpid()}"
        self.script = repository / "deploy" / "docker" / "compose.sh"
        opened = [socket.create_server(("127.0.0.1", 0)) for _ in SERVICES]
        ports = {f"YUAN_{name.upper()}_PORT": one.getsockname()[1] for name, one in zip(SERVICES, opened, strict=True)}
        for one in opened:
            one.close()
        self.environment = {
            **build,
            **{name: str(port) for name, port in ports.items()},
            "COMPOSE_PROJECT_NAME": self.project,
            "YUAN_SECRETS": str(folder / "secrets"),
            "YUAN_TAG": "test",
        }

    def compose(self, *arguments: str) -> None:
        subprocess.run(["bash", str(self.script), *arguments], env={**os.environ, **self.environment}, check=True)

    def container(self, service: str) -> str:
        label = f"label=com.docker.compose.service={service}"
        return output_of(
            "docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}", "--filter", label
        )

    def state(self, service: str, field: str) -> str:
        return output_of("docker", "inspect", "--format", f"{{{{{field}}}}}", self.container(service))

    def everything(self) -> list[str]:
        """Returns ids of all containers, volumes and networks of the project."""
        label = f"label=com.docker.compose.project={self.project}"
        lists = (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        return [line for words in lists for line in output_of("docker", *words, "--filter", label).split()]


@pytest.fixture(scope="module")
def stack(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, build_environment: dict[str, str]
) -> Iterator[Composed]:
    stack = Composed(repository, tmp_path_factory.mktemp("compose"), build_environment)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in stack.environment.items():
            patched.setenv(name, value)
        try:
            stack.compose("up")
            yield stack
        finally:
            stack.compose("down", "--volumes", "--remove-orphans")
    assert stack.everything() == []


def test_a_pipeline_goes_through_the_composed_stack_though_its_trainer_is_killed(
    stack: Composed, repository: Path, tmp_path: Path
) -> None:
    cluster = repository / "configs" / "clusters" / "compose.yaml"
    user = User(tmp_path)
    manifest = tmp_path / "pipeline.yaml"
    manifest.write_text(PIPELINE.format(jobs=repository / "configs" / "jobs", text=TEXT, steps=STEPS))
    job = json.loads(user.does("-f", str(cluster), "submit", str(manifest), "--json"))

    def pretrain() -> dict[str, object]:
        shown = json.loads(user.does("-f", str(cluster), "show", job["id"], "--json"))
        return next(step for step in shown["steps"] if step["step"] == "pretrain")

    # Over gRPC, from this host: the metrics begin, and go on through the kill until the run has ended.
    restarts = int(stack.state("trainer-worker", ".RestartCount"))
    steps: dict[int, int] = {}
    with connect("trainer", load_cluster(cluster).cluster) as connection, connection.errors():
        stub = connection.stub(trainer_pb2_grpc.TrainerServiceStub)
        request = trainer_pb2.WatchMetricsRequest(job_id=str(pretrain()["id"]))
        killed = False
        for row in stub.WatchMetrics(request, timeout=1200):
            steps[row.step] = row.attempt
            if not killed and row.step > 60:
                # As a crash or a lack of memory would: docker's own `kill` keeps a container from coming back.
                os.kill(int(stack.state("trainer-worker", ".State.Pid")), signal.SIGKILL)
                killed = True
    assert sorted(steps) == list(range(min(steps), STEPS + 1))
    assert set(steps.values()) == {1, 2}, "the second attempt went on where a checkpoint of the first one ended"
    user.does("-f", str(cluster), "wait", job["id"])
    assert (pretrain()["state"], pretrain()["attempt"]) == ("SUCCEEDED", 2)
    assert int(stack.state("trainer-worker", ".RestartCount")) == restarts + 1

    # Every attempt asked the data service before it started.
    command = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9100/metrics').read().decode())"
    page = output_of("docker", "exec", stack.container("data"), "python", "-c", command)
    asked = [line for line in page.splitlines() if 'handled_total{grpc_code="OK",grpc_method="DescribeDataset"' in line]
    assert [float(line.split()[-1]) for line in asked] == [2.0]

    user.does("-f", str(cluster), "deploy", "demo")
    assert user.does("-f", str(cluster), "generate", "import os", "--max-tokens", "8")


def test_the_containers_of_our_services_run_without_root_and_without_compilers(stack: Composed) -> None:
    workers = [f"{name}-worker" for name in SERVICES if name not in ("inference", "gateway")]
    for service in (*SERVICES, *workers):
        container = stack.container(service)
        assert output_of("docker", "exec", container, "id", "-u") == "10001"
        assert output_of("docker", "exec", container, "sh", "-c", "command -v gcc cc make || true") == "", service
        ports = json.loads(output_of("docker", "inspect", "--format", "{{json .NetworkSettings.Ports}}", container))
        assert all(bound["HostIp"] == "127.0.0.1" for binds in ports.values() for bound in binds or ())
    packages = "import importlib.util as u; print([n for n in ('torch', 'deepspeed') if u.find_spec(n)])"
    there = {name: output_of("docker", "exec", stack.container(name), "python", "-c", packages) for name in SERVICES}
    assert there == {
        "data": "[]",
        "trainer": "['torch', 'deepspeed']",
        "converter": "['torch']",
        "evaluator": "['torch']",
        "inference": "['torch']",
        "gateway": "[]",
    }


def test_no_container_can_write_its_root_or_gain_rights_and_all_have_limits(stack: Composed) -> None:
    workers = [f"{name}-worker" for name in SERVICES if name not in ("inference", "gateway")]
    for service in (*SERVICES, *workers, "redis", "postgres", "sandbox"):
        container = stack.container(service)
        tried = output_of("docker", "exec", container, "sh", "-c", "touch /x /usr/x 2>&1 || true; touch /tmp/x; id -u")
        assert tried.count("Read-only file system") == 2, (service, tried)
        assert (tried.split()[-1] == "0") == (service == "sandbox"), service
        status = output_of("docker", "exec", container, "cat", "/proc/self/status")
        assert "NoNewPrivs:\t1" in status, service
        limits = json.loads(output_of("docker", "inspect", "--format", "{{json .HostConfig}}", container))
        assert min(limits[key] for key in ("NanoCpus", "Memory", "PidsLimit")) > 0, service
        if service != "sandbox":
            assert "CapBnd:\t0000000000000000" in status, service


def test_metrics_are_read_from_another_container_with_prometheus_token_alone(stack: Composed) -> None:
    gateway = stack.container("gateway")
    ask = (
        "import sys, urllib.error, urllib.request as u\n"
        "token = open('/run/yuan/prometheus').read() if sys.argv[2] else ''\n"
        "try: print(u.urlopen(u.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + token})).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    settings = yaml.safe_load((stack.script.parents[1] / "prometheus" / "prometheus.yaml").read_text())
    jobs = [job for job in settings["scrape_configs"] if job["job_name"].startswith("yuan")]
    for target in (target for job in jobs for target in job["static_configs"][0]["targets"]):
        for token, status in (("", "401"), ("token", "200")):
            found = output_of("docker", "exec", gateway, "python", "-c", ask, f"http://{target}/metrics", token)
            assert found == status, target


def test_the_inference_image_has_the_compiled_step_though_no_compiler(stack: Composed) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("libraries are made for x86-64 alone")
    command = "from yuan_model import native_library; print(native_library()._name)"
    for service in ("inference", "evaluator-worker"):
        found = output_of("docker", "exec", stack.container(service), "python", "-c", command)
        assert found.startswith("/opt/yuan/native/step-"), service


def test_redis_keeps_what_it_was_sent_and_refuses_rather_than_forget(stack: Composed) -> None:
    redis = stack.container("redis")
    for key, value in (("appendonly", "yes"), ("maxmemory-policy", "noeviction")):
        assert "NOAUTH" in output_of("docker", "exec", redis, "redis-cli", "config", "get", key)
        asked = f'REDISCLI_AUTH="$(cat /run/redis/password)" redis-cli config get {key}'
        assert output_of("docker", "exec", redis, "sh", "-c", asked).split() == [key, value]
    deadline = time.monotonic() + 60
    while stack.state("redis", ".State.Health.Status") != "healthy":
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_generated_programs_run_in_a_container_without_network_and_come_to_nothing(
    stack: Composed, repository: Path
) -> None:
    sandbox, worker = stack.container("sandbox"), stack.container("evaluator-worker")
    assert output_of("docker", "inspect", "--format", "{{.HostConfig.NetworkMode}}", sandbox) == "none"
    assert output_of("docker", "inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", sandbox) == "true"
    attacks = (repository / "tests/yuan_evaluator/attacks.py").read_bytes()
    subprocess.run(["docker", "exec", "-i", worker, "sh", "-c", "cat > /tmp/attacks.py"], check=True, input=attacks)
    command = "python /tmp/attacks.py /run/sandbox/socket"
    found = json.loads(output_of("docker", "exec", worker, "sh", "-c", command))
    came_to_nothing(found)


def test_generated_programs_come_to_nothing_in_a_pod_whose_containers_share_a_network(
    stack: Composed, repository: Path
) -> None:
    """As deploy/kubernetes/evaluator.yaml has it: the network is the worker's, volumes are everybody's to write."""
    worker = stack.container("evaluator-worker")
    image = f"yuan-evaluator:{stack.environment['YUAN_TAG']}"
    volume = f"{stack.project}_pod"
    output_of("docker", "volume", "create", "--label", f"com.docker.compose.project={stack.project}", volume)
    pod = ["--network", f"container:{worker}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]
    pod += ["--read-only", "--memory", "4g", "-v", f"{volume}:/run/sandbox"]
    opened = ["docker", "run", "--rm", "--cap-drop", "ALL", "--user", "root", "-v", f"{volume}:/run/sandbox", image]
    output_of(*opened, "chmod", "777", "/run/sandbox")
    command = ["python", "-m", "yuan_evaluator", "sandbox", "--socket", "/run/sandbox/socket", "--deny-network"]
    rights = ["--user", "root", "--cap-add", "SETUID", "--cap-add", "SETGID", "--cap-add", "KILL"]
    rights += ["--tmpfs", "/tmp:size=256m,mode=777", "--tmpfs", "/dev/shm:size=1m,mode=777"]  # noqa: S108
    sandbox = output_of("docker", "run", "--detach", "--init", *pod, *rights, image, *command)
    try:
        end = time.monotonic() + 120
        while not succeeds("docker", "exec", sandbox, "test", "-S", "/run/sandbox/socket"):
            assert time.monotonic() < end, output_of("docker", "logs", sandbox)
            time.sleep(0.5)
        # The network that programs may not use is there.
        assert output_of("docker", "exec", sandbox, "ls", "/sys/class/net") != "lo"
        script = f"{repository / 'tests/yuan_evaluator/attacks.py'}:/attacks.py:ro"
        client = ["docker", "run", "--rm", *pod, "--tmpfs", "/tmp", "-v", script, image]  # noqa: S108
        came_to_nothing(json.loads(output_of(*client, "python", "/attacks.py", "/run/sandbox/socket")))
    finally:
        subprocess.run(["docker", "rm", "--force", sandbox], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["docker", "volume", "rm", volume], check=True, stdout=subprocess.DEVNULL)


def came_to_nothing(found: dict[str, Any]) -> None:
    assert "refused" not in found, found
    outside = found.pop("outside")
    assert outside == {"left": [], "files": ["secret"]}
    for name, verdict in found.items():
        assert "BREACH" not in verdict["output"], (name, verdict)
        assert verdict["lives"], (name, verdict)
    assert found["allocates 100 GB"]["outcome"] == "memory"
