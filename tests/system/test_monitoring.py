"""Prometheus, the real one, reads a real stack by our configuration, and every dashboard and alert gets its answers.

Debian's package `prometheus` is enough. Grafana is in no package registry: what it would ask is asked here in its
place.
"""

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.machine import free_port, own_address, wait_until
from tests.served_models import publish_model, server_process
from tests.tiny_models import make_model, make_tokenizer, write_text
from yuan_corpus import Tokenizer
from yuan_jobs.home import Home
from yuan_jobs.records import NewJob
from yuan_jobs.registry import Registry
from yuan_manifest import ClusterManifest, load_cluster
from yuan_rpc import RpcFailed, connect, ensure_token_file, health_of
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from yuan_trainer.gauges import GAUGES
from yuan_trainer.history import HISTORY_NAME

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian's package)"),
]

SERVICES = ("trainer", "inference", "gateway")
QUIET = {
    # What nothing in this small stack has: waiting jobs, lost attempts, deployments, webhooks, a request that failed.
    *("yuan_jobs_queued", "yuan_jobs_oldest_queued_seconds", "yuan_jobs_workers", "yuan_jobs_attempts_total"),
    *("yuan_jobs_deployments", "yuan_rpc_handled_total"),
}


class Monitored:
    """A stack with a served model and a run, and a Prometheus beside it.

    Attributes:
        url: Prometheus'.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = {f"{name}{kind}": free_port() for name in SERVICES for kind in ("", "_metrics")}
        self.file = folder / "cluster.yaml"
        services = ", ".join(
            f"{name}: {{port: {ports[name]}, bind: 0.0.0.0, workers: {int(name == 'trainer')}, "
            f"metrics_port: {ports[f'{name}_metrics'] if name != 'gateway' else 'null'}, metrics_bind: 0.0.0.0}}"
            for name in SERVICES
        )
        self.file.write_text(
            f"version: 1\ncluster:\n  home: {folder / 'home'}\n  services: {{{services}, data: null, converter: null, "
            f"evaluator: null}}\n  security:\n    plaintext: true\n"
            f"    tenants: {{prometheus: {{token_file: {folder / 'prometheus-token'}}}}}\n"
            "topology: {nodes: {device: cpu}}\n"
        )
        for token in (folder / "home" / "token", folder / "prometheus-token"):
            ensure_token_file(token)
        self.cluster: ClusterManifest = load_cluster(self.file)
        host = own_address()  # where they ask for Prometheus' token
        self.targets = {
            "yuan": [f"{host}:{ports[f'{name}_metrics']}" for name in ("trainer", "inference")],
            "yuan-gateway": [f"{host}:{ports['gateway']}"],
        }
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def publish(self) -> None:
        """Makes a model, and a run that is going on."""
        tokenizer = self.folder / "tokenizer"
        make_tokenizer(tokenizer, write_text(self.folder / "text.txt"))
        make_model(self.folder / "model", Tokenizer.load(tokenizer).eod_id)
        shutil.copytree(tokenizer, self.folder / "model" / "tokenizer")
        publish_model(self.cluster, self.folder / "model", "tiny")
        home = Home.of(self.cluster.cluster)
        registry = Registry.open(self.cluster.cluster.registry)
        claim = registry.claim(NewJob("pretrain", "demo", "i" * 64, {"kind": "pretrain"}, {}, {}))
        registry.close()
        history = home.run_folder(claim.job_id) / HISTORY_NAME
        history.parent.mkdir(parents=True, exist_ok=True)
        history.write_text(json.dumps({"step": 7, **dict.fromkeys(GAUGES, 1.5)}) + "\n")

    def ask_model(self) -> None:
        with connect("inference", self.cluster.cluster) as connection, connection.errors():
            stub = connection.stub(inference_pb2_grpc.InferenceServiceStub)
            stub.LoadModel(inference_pb2.LoadModelRequest(artifact="tiny"), timeout=120)
            for _ in range(2):
                sampling = inference_pb2.SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
                stub.Generate(
                    inference_pb2.GenerateRequest(prompt="shall I compare", sampling_params=sampling), timeout=120
                )

    def configure(self, repository: Path) -> Path:
        """Writes our configuration with this stack's addresses, and scrapes that come every second."""
        shutil.copy(repository / "deploy" / "prometheus" / "alerts.yaml", self.folder)
        settings = yaml.safe_load((repository / "deploy" / "prometheus" / "prometheus.yaml").read_text())
        settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        for job in settings["scrape_configs"]:
            if job["job_name"] in self.targets:
                job["static_configs"] = [{"targets": self.targets[job["job_name"]]}]
                job["authorization"]["credentials_file"] = str(self.folder / "prometheus-token")
            else:
                job["static_configs"] = [{"targets": [self.address]}]
        file = self.folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(settings))
        subprocess.run(["promtool", "check", "config", str(file)], check=True, timeout=60, capture_output=True)
        return file

    def api(self, path: str, **query: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return found["data"]

    def has(self, expression: str) -> bool:
        return bool(self.api("query", query=expression)["result"])


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Monitored]:
    stack = Monitored(tmp_path_factory.mktemp("monitored"))
    stack.publish()
    with ExitStack() as running:
        for service in ("inference", "trainer"):
            running.enter_context(server_process(service, stack.file, stack.cluster))
        running.enter_context(gateway_process(stack))
        stack.ask_model()
        command = [
            "prometheus",
            f"--config.file={stack.configure(repository)}",
            f"--storage.tsdb.path={stack.folder / 'tsdb'}",
            f"--web.listen-address={stack.address}",
        ]
        with (stack.folder / "prometheus.log").open("w") as log:
            prometheus = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(
                lambda: stack.has("yuan_jobs_registry_up") and stack.has("yuan_gateway_inference_up"),
                120,
                forgives=(OSError,),
            )
            yield stack
        finally:
            prometheus.terminate()
            try:
                prometheus.wait(30)
            except subprocess.TimeoutExpired:
                prometheus.kill()
                prometheus.wait()


@contextmanager
def gateway_process(stack: Monitored) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "yuan_gateway", "server", "-f", str(stack.file)])

    def serves() -> bool:
        assert process.poll() is None
        try:
            with health_of("gateway", stack.cluster.cluster) as server:
                return server.is_serving()
        except RpcFailed:
            return False

    try:
        wait_until(serves, 120, forgives=(OSError,))
        yield
    finally:
        process.kill()
        process.wait()


def test_every_target_is_up(monitored: Monitored) -> None:
    def all_up() -> bool:
        targets = monitored.api("targets", state="active")["activeTargets"]
        return len(targets) == 4 and all(target["health"] == "up" for target in targets)

    wait_until(all_up, 120, forgives=(OSError,))


def test_every_alert_is_loaded_and_evaluates(monitored: Monitored, repository: Path) -> None:
    ours = yaml.safe_load((repository / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    names = {rule["alert"] for group in ours for rule in group["rules"]}

    def evaluated() -> bool:
        rules = [rule for group in monitored.api("rules")["groups"] for rule in group["rules"]]
        return {rule["name"] for rule in rules} == names and all(rule["health"] == "ok" for rule in rules)

    wait_until(evaluated, 120, forgives=(OSError,))


def test_every_panel_gets_an_answer_of_this_stacks_numbers(monitored: Monitored, repository: Path) -> None:
    unanswered: dict[str, str] = {}
    for file in sorted((repository / "deploy" / "grafana" / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        for variable in dashboard["templating"]["list"]:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            assert monitored.api(f"label/{label}/values", **{"match[]": metric}), variable["name"]
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                asked = target["expr"].replace("$__rate_interval", "1m").replace("$run", ".*").replace("$model", ".*")
                answered = monitored.has(asked)  # a query that Prometheus does not understand has failed by now
                if not answered and not set(re.findall(r"\byuan_\w+", asked)) & QUIET:
                    unanswered[asked] = f"{file.stem}: {panel['title']}"

    def all_answered() -> bool:
        for asked in [asked for asked in unanswered if monitored.has(asked)]:
            del unanswered[asked]
        return not unanswered

    with suppress(AssertionError):  # a rate is there after the second look at a counter
        wait_until(all_answered, 60, forgives=(OSError,))
    assert unanswered == {}
