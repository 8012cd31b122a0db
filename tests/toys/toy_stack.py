"""Fixtures for tests of the stack: a home with a cluster of its own ports, toy services, and what is left of them."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import free_ports, wait_until
from toy_home import Toys, is_alive

SERVICES = Path(__file__).parent / "stack_services"


class ToyStack(Toys):
    """A stack of the data service with a worker and the trainer service without one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data_port, self.trainer_port, self.spare_port = free_ports(3)
        self.write()

    def write(
        self, *, data: str = "workers: 1", trainer: str = "workers: 0", others: str = "", parallel: str = "{}"
    ) -> None:
        """Writes the manifest; what is given stands in the flow mappings of the services and of the cluster."""
        (self.folder / "stack.yaml").write_text(
            "version: 1\n"
            "cluster:\n"
            f"  home: {self.home}\n"
            "  services:\n"
            f"    data: {{port: {self.data_port}, {data}}}\n"
            f"    trainer: {{port: {self.trainer_port}, {trainer}}}\n"
            "    converter: null\n"
            "    evaluator: null\n    inference: null\n    gateway: null\n"
            f"  {others}\n"
            f"topology: {{parallel: {parallel}}}\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        kept = super().environment
        return kept | {"PYTHONPATH": os.pathsep.join([str(SERVICES), *kept["PYTHONPATH"].split(os.pathsep)[1:]])}

    @property
    def stack(self) -> Path:
        """The stack's folder."""
        return self.home / "stack"

    def command(self, name: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """Runs `yuan NAME -f stack.yaml …` to its end."""
        return self.yuan(name, "-f", "stack.yaml", *options)

    def foreground(self) -> "subprocess.Popen[str]":
        """Starts `yuan up` in the foreground and waits until all is up."""
        process = self.start("yuan_cli.main", "up", "-f", "stack.yaml")
        assert process.stdout is not None
        lines: list[str] = []
        while "the stack is up" not in (line := process.stdout.readline()):
            lines.append(line)
            assert line, process.communicate()[1] + "".join(lines)
        return process

    def up(self) -> dict[str, int]:
        """Brings it up in the background; returns the process ids by name."""
        ended = self.command("up", "--detach")
        assert ended.returncode == 0, ended.stderr + ended.stdout
        return self.pids()

    def state(self) -> dict[str, Any]:
        """Returns what the supervisor tells."""
        return json.loads((self.stack / "state.json").read_text())

    def records(self) -> dict[str, dict[str, Any]]:
        """Returns what it tells of each process."""
        state = self.state()
        return {record["name"]: record for record in [state["broker"], *state["processes"]] if record is not None}

    def pids(self) -> dict[str, int]:
        """Returns the process ids by name."""
        return {name: record["pid"] for name, record in self.records().items()}

    def await_up(self, name: str, *, other_than: int | None = None) -> int:
        """Waits until a process is up, another one than before; returns its id."""

        def is_up() -> bool:
            record = self.records()[name]
            return record["state"] == "up" and record["pid"] != other_than

        wait_until(is_up)
        return self.pids()[name]

    def names_of(self, file: str) -> list[str]:
        """Returns the names in `starts` or `ends`."""
        path = self.control / file
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def left(self) -> list[str]:
        """Returns what is left of it: files of the stack's folder besides logs and data, living processes."""
        found = [path.name for path in self.stack.iterdir()] if self.stack.exists() else []
        return sorted({*found} - {"logs", "valkey"}) + [
            command for pid in Path("/proc").glob("[0-9]*") if str(self.folder) in (command := _command(pid))
        ]

    def end(self) -> None:
        """Ends what is still running."""
        super().end()
        if (self.stack / "state.json").exists():
            self.command("down")
        for pid in Path("/proc").glob("[0-9]*"):
            if str(self.folder) in _command(pid) and is_alive(int(pid.name)):
                os.kill(int(pid.name), signal.SIGKILL)


def _command(folder: Path) -> str:
    """Returns the command line of a process, empty for one that is no more."""
    try:
        return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyStack]:
    """A fresh stack, not started."""
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    made = ToyStack(tmp_path)
    yield made
    made.end()
