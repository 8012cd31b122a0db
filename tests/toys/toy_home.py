"""Fixtures for tests of jobs, stack and command line: a home of one's own, manifests, and toy services that obey."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import wait_until

from yuan_events import RecordingSink
from yuan_jobs import Work, WorkContext, WorkResult
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.attempt import Outcome
from yuan_jobs.execution import execute
from yuan_jobs.home import Home
from yuan_manifest import load_cluster, load_job, resolve_topology

SERVICES = Path(__file__).parent / "toy_services"
PATIENCE_S = 180.0

MANIFESTS = {
    "tokenizer.yaml": "kind: tokenizer\nname: first\ninputs: {text: [a.txt]}\noutputs: {tokenizer: demo}\n",
    "tokenize.yaml": (
        "kind: tokenize\nname: second\ninputs: {tokenizer: demo, text: [a.txt]}\noutputs: {dataset: demo}\n"
    ),
    "convert.yaml": "kind: convert\nname: third\ninputs: {path: a.txt}\noutputs: {path: converted}\n",
    "generate.yaml": "kind: generate\nname: last\ninputs: {model: demo, prompts: [hi]}\noutputs: {report: demo}\n",
    "pipeline.yaml": (
        "kind: pipeline\nname: both\nsteps:\n"
        "  cut: {manifest: tokenize.yaml, needs: [train]}\n  train: {manifest: tokenizer.yaml}\n"
    ),
}


def is_alive(pid: int) -> bool:
    """Says whether a process is there and has not ended."""
    found = _state_and_parent(pid)
    return found is not None and found[0] != "Z"


def is_child_of(pid: int, parent: int) -> bool:
    """Says whether a process has another as its parent still: it has, until the last thread of that one is gone."""
    found = _state_and_parent(pid)
    return found is not None and found[1] == parent


def _state_and_parent(pid: int) -> tuple[str, int] | None:
    """Returns what proc(5) tells of a process; None if there is no such process."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return state, int(parent)


class Toys:
    """A folder with manifests, a home, and the file by which toy services are steered (see toy_work.py)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.control = folder / "control"
        self.control.mkdir(parents=True)
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "a.txt").write_text("some text\n")
        for name, text in MANIFESTS.items():
            (folder / name).write_text(f"version: 1\n{text}")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("YUAN_")}
        # Of a checkout that is not the installed one; its services would win over these, which have no __init__.py.
        libs = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(path).name == "libs"]
        path = os.pathsep.join([str(SERVICES), *libs])
        own = {"PYTHONPATH": path, "TOY_CONTROL": str(self.control), "YUAN_HOME": str(self.home)}
        return kept | own

    def start(self, *command: str, own_group: bool = True, **options: Any) -> "subprocess.Popen[str]":
        """Starts `python -m …` in the folder, by default as the leader of a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            process_group=0 if own_group else None,
            **options,
        )
        self.processes.append(process)
        return process

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Runs `python -m …` to its end."""
        process = self.start(*command)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def yuan(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs `yuan …` to its end."""
        return self.run("yuan_cli.main", *arguments)

    def hold(self, name: str) -> None:
        """Makes the job of that name work until it is released."""
        (self.control / f"{name}.hold").touch()

    def is_held(self, name: str) -> bool:
        """Says whether a job of that name works until it is released."""
        return (self.control / f"{name}.hold").exists()

    def release(self, name: str) -> None:
        """Lets a held job end."""
        (self.control / f"{name}.hold").unlink()

    def await_work(self, name: str) -> int:
        """Waits until a held job is at work; returns its process."""
        file = self.control / f"{name}.working"
        wait_until(lambda: file.exists() and file.read_text() != "")
        return int(file.read_text())

    @property
    def calls(self) -> list[str]:
        """A line `NAME ATTEMPT` for every time that work was begun."""
        file = self.control / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def store(self) -> ArtifactStore:
        """Opens the store."""
        return ArtifactStore.open(self.opened_home())

    def opened_home(self) -> Home:
        """Returns the home."""
        return Home.of(load_cluster(None, [f"cluster.home={self.home}"]).cluster)

    def execute(
        self,
        manifest: str,
        work: Callable[[WorkContext], WorkResult],
        *overrides: str,
        sink: RecordingSink | None = None,
        fingerprint: Callable[..., dict[str, str]] = lambda job: {},
        store: str | None = None,
        **options: Any,
    ) -> Outcome:
        """Executes a job in this process with work of the test's."""
        cluster = load_cluster(None, [f"cluster.home={self.home}", *([f"cluster.store={store}"] if store else [])])
        job = load_job(self.folder / manifest, overrides)
        topology = resolve_topology(job, cluster)
        table = Work(run=work, fingerprint=fingerprint)
        return execute(job, topology, cluster.cluster, table, sink or RecordingSink(), **options)

    def end(self) -> None:
        """Ends what is still running."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL) if os.getpgid(process.pid) == process.pid else process.kill()
                process.wait()


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toys]:
    """A fresh folder of toys."""
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    made = Toys(tmp_path)
    yield made
    made.end()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def write_result(context: WorkContext) -> WorkResult:
    """Work that writes one file."""
    (context.output / "result.txt").write_text(context.job.name)
    return WorkResult({"words": 1})
