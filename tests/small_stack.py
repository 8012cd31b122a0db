"""A home with a tokenizer, a dataset and a model in it, and servers of the stack as processes of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from tests.machine import free_ports
from tests.tiny_models import CONTEXT, VOCABULARY, make_model, write_text
from yuan_corpus import Tokenizer
from yuan_data.text import fingerprint_of_text
from yuan_data.tokenize_text import tokenize_work
from yuan_data.train_tokenizer import tokenizer_work
from yuan_events import NullSink
from yuan_jobs import Work, WorkContext, WorkResult
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.execution import execute
from yuan_jobs.home import Home
from yuan_manifest import ClusterManifest, job_of_plain, load_cluster, resolve_topology
from yuan_rpc import Connection, connect, ensure_token_file

SERVICES = ("data", "trainer", "converter")


class SmallStack:
    """Published: tokenizer/small, tokenizer/other, dataset/small (cut by the first), model/small.

    Attributes:
        home: the home folder.
        file: the cluster's manifest, with ports and metrics ports of its own.
        manifest: what it says.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.file = folder / "cluster.yaml"
        ports = iter(free_ports(2 * len(SERVICES)))
        services = ", ".join(f"{name}: {{port: {next(ports)}, metrics_port: {next(ports)}}}" for name in SERVICES)
        self.file.write_text(
            f"version: 1\ncluster:\n  home: {self.home}\n  services: "
            f"{{{services}, evaluator: null, inference: null, gateway: null}}\n"
        )
        self.manifest: ClusterManifest = load_cluster(self.file)
        ensure_token_file(Path(self.manifest.cluster.security.token_file))
        self._text = write_text(folder / "text.txt")
        self._publish()

    @property
    def store(self) -> ArtifactStore:
        """Its artifacts, opened anew."""
        return ArtifactStore.open(Home.of(self.manifest.cluster))

    def connect(self, service: str) -> Connection:
        """Returns a connection to one of its servers."""
        return connect(service, self.manifest.cluster)

    @contextmanager
    def serving(self, service: str) -> Iterator[Connection]:
        """Runs a server for the time of a block; gives a connection to it."""
        command = [sys.executable, "-m", f"yuan_{service}", "server", "-f", str(self.file)]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            with self.connect(service) as connection:
                assert connection.wait_until_serving(180, give_up=lambda: process.poll() is not None)
                yield connection
        finally:
            process.terminate()
            try:
                assert process.wait(120) == 0
            finally:
                process.kill()

    def calls(self, service: str, method: str) -> int:
        """Returns how many calls of a method a server has answered well, from its metrics."""
        page = self._metrics(service)
        pattern = rf'^yuan_rpc_handled_total{{grpc_code="OK",grpc_method="{method}",grpc_service="[^"]*"}} (\S+)$'
        return sum(int(float(count)) for count in re.findall(pattern, page, re.MULTILINE))

    def metric(self, service: str, name: str) -> float:
        """Returns a server's metric, by its name with its labels."""
        pattern = rf"^{re.escape(name)} (\S+)$"
        return next(float(value) for value in re.findall(pattern, self._metrics(service), re.MULTILINE))

    def _metrics(self, service: str) -> str:
        port = getattr(self.manifest.cluster.services, service).metrics_port
        return urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()

    def _publish(self) -> None:
        text = {"text": [str(self._text)]}
        learn = Work(run=tokenizer_work, fingerprint=fingerprint_of_text)
        for name, vocabulary in (("small", VOCABULARY), ("other", VOCABULARY - 10)):
            self._make(
                learn,
                kind="tokenizer",
                name=name,
                inputs=text,
                tokenizer={"vocab_size": vocabulary, "algorithm": "bpe"},
                outputs={"tokenizer": name},
            )
        self._make(
            Work(run=tokenize_work, fingerprint=fingerprint_of_text),
            kind="tokenize",
            name="small",
            inputs={**text, "tokenizer": "small"},
            tokenize={"workers": 1},
            outputs={"dataset": "small"},
        )
        self._make(Work(run=_model_work), **pretraining())

    def _make(self, work: Work, **tree: object) -> None:
        job = job_of_plain({"version": 1, **tree})
        execute(job, resolve_topology(job, self.manifest), self.manifest.cluster, work, NullSink())


def pretraining(**changes: object) -> dict[str, object]:
    """Returns the manifest of a small run on the small dataset."""
    return {
        "kind": "pretrain",
        "name": "small",
        "model": {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": CONTEXT,
        },
        "inputs": {"tokenizer": "small", "datasets": [{"name": "small"}]},
        "data": {"sequence_length": 32, "split": [0.8, 0.2, 0]},
        "train": {"steps": 4, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32"},
        "optimizer": {"lr": 5e-3, "warmup_steps": 2},
        "evaluation": {"samples": 4},
        "outputs": {"model": "small"},
        **changes,
    }


def _model_work(context: WorkContext) -> WorkResult:
    make_model(context.output, Tokenizer.load(context.inputs["tokenizer"].path).eod_id)
    return WorkResult()
