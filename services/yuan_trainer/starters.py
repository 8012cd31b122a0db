"""Starts the agents of several hosts with DeepSpeed's runner, Slurm or Kubernetes: submits, looks, cancels.

What is submitted is written by `yuan_launch`; what the agents do then is `host.py`'s. Each starter notes in the
launch folder what it has submitted, so that the next run can cancel it after this process was killed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from yuan_events import InputError, WorkFailed
from yuan_launch import Agents, HostLine, kubernetes_manifest, kubernetes_name, runner_command, slurm_script
from yuan_manifest.schema import KubernetesSection, SlurmSection
from yuan_trainer.joining import route_to

TOOL_SECONDS = 60
LOOK_SECONDS = 3.0
ENDING_SECONDS = 10.0
NOTE = "submitted.json"


class HostfileStarter:
    """DeepSpeed's runner, a child of this process; it reaches the hosts with pdsh over ssh."""

    def __init__(self, agents: Agents, lines: Sequence[HostLine]) -> None:
        self._agents = agents
        self._lines = lines
        self._log = agents.folder / "runner.log"
        self._runner: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the runner."""
        need_tools("hostfile", "pdsh", "ssh")
        hostfile = self._agents.folder / "hostfile"
        hostfile.write_text("".join(f"{line.name} slots={line.slots}\n" for line in self._lines), encoding="utf-8")
        command = runner_command(self._agents, hostfile, address_of_first(self._lines))
        with self._log.open("ab") as log:
            # The runner changes to its own current folder on every host. A session of its own: a terminal's Ctrl-C is
            # for the run, which asks for a state first, while the runner would end everything there and then.
            self._runner = subprocess.Popen(
                command,
                cwd=self._agents.folder,
                env={**os.environ, "DS_ACCELERATOR": "cuda" if self._agents.cuda else "cpu"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def look(self) -> str:
        """Returns what is waited for."""
        return f"DeepSpeed's runner starts {self._agents.hosts} hosts (log: {self._log})"

    def ended(self) -> str:
        """Returns how the runner ended."""
        code = None if self._runner is None else self._runner.poll()
        return "" if code is None else f"DeepSpeed's runner ended with code {code}{_last_line(self._log)}"

    def end(self) -> None:
        """Ends the runner, which has nothing to do any more: agents end by the launch folder.

        Not with SIGTERM: the runner would answer with `pkill -f` on every host, of a pattern that other runs on the
        same hosts share.
        """
        if self._runner is None:
            return
        try:
            self._runner.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._runner.pid, signal.SIGKILL)
            self._runner.wait()


class SlurmStarter:
    """`sbatch`, `squeue` and `scancel`."""

    ENDED = frozenset(
        {
            *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
            *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
        }
    )
    """States that a job does not leave."""

    def __init__(self, agents: Agents, section: SlurmSection) -> None:
        self._agents = agents
        self._section = section
        self._job = ""
        self._state, self._reason = "", ""
        self._looked = -LOOK_SECONDS

    def start(self) -> None:
        """Submits the script."""
        need_tools("slurm", "sbatch", "squeue", "scancel")
        folder = self._agents.folder
        script = folder / "job.sh"
        script.write_text(slurm_script(self._agents, self._section), encoding="utf-8")
        answer = run_tool(["sbatch", "--parsable", str(script)], cwd=folder)
        self._job = answer.strip().splitlines()[-1].partition(";")[0]
        write_note(folder, {"launcher": "slurm", "job": self._job})

    def look(self) -> str:
        """Returns the job's state, as Slurm says it."""
        self._update()
        reason = f" ({self._reason})" if self._reason not in ("", "None") else ""
        return f"Slurm job {self._job}: {self._state or 'submitted'}{reason}"

    def ended(self) -> str:
        """Returns how the job ended."""
        self._update()
        if self._state not in self.ENDED:
            return ""
        log = self._agents.folder / "slurm.log"
        return f"Slurm job {self._job} is {self._state}{_last_line(log)}"

    def end(self) -> None:
        """Cancels the job, unless it ends by itself: its agents have ended where it has run."""
        if not self._job:
            return
        deadline = time.monotonic() + ENDING_SECONDS
        while self._state not in self.ENDED and self._state != "PENDING" and time.monotonic() < deadline:
            time.sleep(0.5)
            self._looked = -LOOK_SECONDS
            self._update()
        if self._state not in self.ENDED:
            self.cancel({"job": self._job})

    @staticmethod
    def cancel(note: Mapping[str, str]) -> None:
        """Cancels what a note tells of; a job that Slurm knows no more is none."""
        with suppress(WorkFailed):
            run_tool(["scancel", note["job"]])

    def _update(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS or self._state in self.ENDED:
            return
        self._looked = time.monotonic()
        try:
            answer = run_tool(["squeue", "--noheader", "--states=all", f"--jobs={self._job}", "--format=%T|%r"])
        except WorkFailed as error:
            # A controller that does not answer says nothing of the job; one that knows it no more does.
            if "invalid job id" in str(error).lower():
                self._state, self._reason = "COMPLETED", ""
            return
        self._state, _, self._reason = (answer.strip().splitlines() or ["COMPLETED|"])[0].partition("|")


class KubernetesStarter:
    """`kubectl apply`, `get` and `delete`."""

    def __init__(self, agents: Agents, section: KubernetesSection, home: str, suffix: str) -> None:
        self._section = section
        self._name = kubernetes_name(agents.name, suffix)
        self._manifest = kubernetes_manifest(agents, section, home, self._name)
        self._folder = agents.folder
        self._state, self._end = "", ""
        self._looked = -LOOK_SECONDS
        self._applied = False

    def start(self) -> None:
        """Applies the manifest."""
        need_tools("kubernetes", "kubectl")
        (self._folder / "manifest.yaml").write_text(self._manifest, encoding="utf-8")
        write_note(self._folder, {"launcher": "kubernetes", "name": self._name, "namespace": self._section.namespace})
        self._applied = True  # a failure may come after the first of the two objects
        run_tool(["kubectl", "apply", "-f", "-"], text=self._manifest)

    def look(self) -> str:
        """Returns the TrainJob's state."""
        self._update()
        return f"TrainJob {self._section.namespace}/{self._name}: {self._state or 'created'}"

    def ended(self) -> str:
        """Returns how the TrainJob ended."""
        self._update()
        return self._end

    def end(self) -> None:
        """Deletes the objects; the logs and events of a run are in its folder."""
        if self._applied:
            self.cancel({"name": self._name, "namespace": self._section.namespace})

    @staticmethod
    def cancel(note: Mapping[str, str]) -> None:
        """Deletes what a note tells of."""
        objects = [f"{kind}.trainer.kubeflow.org/{note['name']}" for kind in ("trainjob", "trainingruntime")]
        options = ["--namespace", note["namespace"], "--ignore-not-found", "--wait=false"]
        with suppress(WorkFailed):
            run_tool(["kubectl", "delete", *objects, *options])

    def _update(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS or self._end:
            return
        self._looked = time.monotonic()
        what = f"trainjob.trainer.kubeflow.org/{self._name}"
        try:
            answer = run_tool(["kubectl", "get", what, "--namespace", self._section.namespace, "-o", "json"])
        except WorkFailed as error:
            if "notfound" in str(error).lower():
                self._end = f"TrainJob {self._name} is no longer there"
            return
        status: dict[str, Any] = json.loads(answer).get("status", {})
        for condition in status.get("conditions", []):
            if condition.get("status") == "True":
                self._state = f"{condition['type']}: {condition.get('message', '')}".rstrip(": ")
                if condition["type"] in ("Complete", "Failed"):
                    self._end = f"TrainJob {self._name} is {self._state}"


CANCEL = {"slurm": SlurmStarter.cancel, "kubernetes": KubernetesStarter.cancel}


def write_note(folder: Path, note: Mapping[str, str]) -> None:
    """Notes what was submitted."""
    (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")


def cancel_left(folder: Path) -> None:
    """Cancels what a run that was killed has left submitted."""
    with suppress(OSError, ValueError, KeyError):
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        CANCEL[note["launcher"]](note)


def need_tools(launcher: str, *tools: str) -> None:
    """Checks that programs are installed.

    Raises:
        InputError: naming the first that is not.
    """
    for tool in tools:
        if shutil.which(tool) is None:
            raise InputError(f"topology.launcher: {launcher} needs the program {tool}, which is not installed here")


def run_tool(command: Sequence[str], *, text: str | None = None, cwd: Path | None = None) -> str:
    """Returns what a program prints.

    Raises:
        WorkFailed: if it fails; with the last line that it says.
    """
    try:
        # A session of its own: a terminal's Ctrl-C is for the run, not for a submission that is under way.
        done = subprocess.run(
            command,
            input=text,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise WorkFailed(f"{command[0]}: no answer within {TOOL_SECONDS} s") from None
    except OSError as error:
        raise WorkFailed(f"{command[0]}: {(error.strerror or str(error)).lower()}") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"ended with code {done.returncode}").splitlines()
        said = lines[-1].strip()
        raise WorkFailed(said if said.startswith(command[0]) else f"{command[0]}: {said}")
    return done.stdout


def address_of_first(lines: Sequence[HostLine]) -> str:
    """Returns by what all hosts reach the first one: its name, unless that means loopback on this machine.

    This machine may be the first host itself, and its own name then 127.0.1.1 (Debian): the address that it has
    towards the second host does for all.
    """
    name = lines[0].address
    try:
        own = str(socket.getaddrinfo(name, None)[0][4][0])
        if len(lines) == 1 or not (own == "::1" or own.startswith("127.")):
            return name
        return route_to(str(socket.getaddrinfo(lines[1].address, None)[0][4][0]))[1]
    except OSError:  # a name of ssh's configuration alone: the hosts say whether they know it
        return name


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    said = next((line for line in reversed(lines) if line), "")
    return f": {said[:200]} (log: {log})" if said else f" (log: {log})"
