"""An inference server of one's own, where no stack runs: `python -m yuan_inference server` for the time of a job.

The evaluator knows the inference service by its calls alone, so a run in the foreground takes the same way as a job of
the queue. The server has a home of its own with one model in it: a link to the artifact's folder.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from yuan_events import InputError, WorkFailed
from yuan_jobs import ArtifactHandle
from yuan_jobs.home import Home
from yuan_jobs.processes import PARENT_VARIABLE
from yuan_jobs.records import NewArtifact, NewJob
from yuan_jobs.registry import Registry
from yuan_manifest import ClusterManifest, Topology, load_cluster
from yuan_manifest.schema import Services, as_plain
from yuan_manifest.yaml_source import dump_yaml
from yuan_rpc import connect, ensure_token_file

_START_SECONDS = 120.0
_END_SECONDS = 20.0


@contextmanager
def private_server(
    model: ArtifactHandle, topology: Topology, give_up: Callable[[], bool]
) -> Generator[ClusterManifest]:
    """Runs a server that has one model, not loaded yet; gives the cluster whose only service it is.

    Args:
        model: the artifact.
        topology: on what it computes.
        give_up: asked while it starts.

    Raises:
        InputError: if the inference service is not installed.
        WorkFailed: if it does not come up.
    """
    if importlib.util.find_spec("yuan_inference") is None:
        raise InputError(
            "no stack serves the model, and yuan_inference is not installed here; yuan up, or "
            "pip install 'yuan-stack[inference]'"
        )
    with tempfile.TemporaryDirectory(prefix="yuan-evaluate-") as name:
        folder = Path(name)
        manifest = _cluster(folder, topology)
        _publish(manifest, model)
        log = folder / "server.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "yuan_inference", "server", "-f", str(folder / "cluster.yaml")],
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                process_group=0,
            )
        try:
            with connect("inference", manifest.cluster) as connection:
                up = connection.wait_until_serving(
                    _START_SECONDS, give_up=lambda: give_up() or process.poll() is not None
                )
            if not up and not give_up():
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise WorkFailed(f"the inference server did not start: {lines[-1] if lines else 'it said nothing'}")
            yield manifest
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _cluster(folder: Path, topology: Topology) -> ClusterManifest:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    services = dict.fromkeys((field.name for field in fields(Services)), None) | {
        "inference": {"port": ports[0], "workers": 0, "metrics_port": ports[1]}
    }
    tree = {
        "version": 1,
        "cluster": {
            "home": str(folder),
            "registry": f"sqlite:///{folder}/registry.db",
            "store": str(folder / "store"),
            "services": services,
            "security": {"token_file": str(folder / "token")},
        },
        "topology": {"nodes": as_plain(topology.nodes)},
    }
    file = folder / "cluster.yaml"
    file.write_text(dump_yaml(tree), encoding="utf-8")
    ensure_token_file(folder / "token")
    return load_cluster(file)


def _publish(manifest: ClusterManifest, model: ArtifactHandle) -> None:
    """Makes the artifact the only one of the server's registry; its files stay where they are."""
    home = Home.of(manifest.cluster)
    store = Path(home.store)
    store.mkdir()
    (store / "model").symlink_to(model.path.absolute(), target_is_directory=True)
    registry = Registry.open(home.registry_url)
    try:
        claim = registry.claim(NewJob("convert", model.name, "evaluated", {}, {}, {}))
        registry.publish(claim, NewArtifact("model", model.name, "model", model.digest, 0, {}), {})
    finally:
        registry.close()
