"""A home with published models and servers of inference and converter as processes; for several folders of tests."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machine import free_ports
from yuan_events import NullSink
from yuan_jobs import Work, WorkContext, WorkResult
from yuan_jobs.execution import execute
from yuan_manifest import ClusterManifest, load_cluster, resolve_topology
from yuan_manifest.schema import ConvertInputs, ConvertJob, ConvertOutputs, Kind
from yuan_rpc import connect, ensure_token_file


def make_cluster(folder: Path) -> tuple[Path, ClusterManifest]:
    """Writes a cluster file with free ports and a token; returns it, and what it says."""
    names = ("data", "trainer", "converter", "inference", "gateway", "metrics")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    ensure_token_file(folder / "home" / "token")
    file = folder / "cluster.yaml"
    file.write_text(
        f"""
version: 1
cluster:
  home: {folder / "home"}
  services:
    data: {{port: {ports["data"]}}}
    trainer: {{port: {ports["trainer"]}}}
    converter: {{port: {ports["converter"]}}}
    evaluator: null
    inference: {{port: {ports["inference"]}, workers: 0, metrics_port: {ports["metrics"]}}}
    gateway: {{port: {ports["gateway"]}}}
topology: {{nodes: {{device: cpu}}}}
"""
    )
    return file, load_cluster(file)


def publish_model(cluster: ClusterManifest, folder: Path, name: str) -> str:
    """Makes a folder the next version of a model; returns its reference."""

    def copy(context: WorkContext[ConvertJob]) -> WorkResult:
        shutil.copytree(folder, context.output, dirs_exist_ok=True)
        return WorkResult()

    job = ConvertJob(
        kind=Kind.convert, name=name, inputs=ConvertInputs(path=str(folder)), outputs=ConvertOutputs(model=name)
    )
    done = execute(job, resolve_topology(job, cluster), cluster.cluster, Work(run=copy), NullSink(), force=True)
    assert done.artifact is not None
    return done.artifact.reference


@contextmanager
def server_process(service: str, file: Path, cluster: ClusterManifest) -> Iterator["subprocess.Popen[str]"]:
    """Runs `python -m yuan_<service> server` until the block ends."""
    log = file.parent / f"{service}.log"
    with log.open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"yuan_{service}", "server", "-f", str(file)],
            stdout=stream,
            stderr=stream,
            text=True,
        )
    try:
        with connect(service, cluster.cluster) as connection:
            up = connection.wait_until_serving(240, give_up=lambda: process.poll() is not None)
        assert up, log.read_text()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
