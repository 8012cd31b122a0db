"""Work for tests of jobs, stack and command line: real jobs and processes, but nothing that takes time or torch.

A folder, TOY_CONTROL, steers it: `calls` gets a line a call. While `NAME.hold` exists the job named NAME goes on
working, and writes `NAME.working` once it does; `NAME.stubborn` makes it deaf to a request to stop. With the file's
text, `NAME.fail` makes it fail, `NAME.hang` break down as a hung step does, `NAME.refuse` refuse its input, `NAME.say`
say it, `NAME.print` print it; `NAME.litter` makes it leave a process behind. State that outlives an attempt is the
number of turns in its run folder.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from yuan_events import AttemptLost, InputError, Message, Metrics, Progress, Text
from yuan_jobs import Work, WorkContext, WorkResult, digest_of_files, service_main
from yuan_manifest.schema import Job, Kind


def control(name: str) -> Path:
    """Returns a file of the control folder."""
    return Path(os.environ["TOY_CONTROL"]) / name


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is read, and may be left behind by a kill, at any moment: the old text or the new one."""
    new = path.with_name(f"{path.name}.new-{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def work(context: WorkContext[Job]) -> WorkResult:
    """Writes one file, after as many turns as it is held for."""
    name = context.job.name
    with control("calls").open("a") as calls:
        calls.write(f"{name} {context.attempt}\n")
    turns = context.run / "turns"
    before = int(turns.read_text() or 0) if turns.exists() else 0
    done = before
    (context.output / "half.bin").write_bytes(b"half")
    while control(f"{name}.hold").exists():
        done += 1
        with suppress(OSError):  # where the disk is full this work is not what needs it
            write_whole(turns, str(done))
        write_whole(control(f"{name}.working"), str(os.getpid()))
        context.sink.emit(Progress("turns", done, unit="turns"))
        if not control(f"{name}.stubborn").exists():
            context.stop_if_asked()
        time.sleep(0.02)
    context.sink.emit(Metrics(done + 1, {"loss": 1.25}))
    if control(f"{name}.litter").exists():
        left = subprocess.Popen(["sleep", "600"])
        control(f"{name}.litter").write_text(str(left.pid))
    if control(f"{name}.say").exists():
        context.sink.emit(Message(control(f"{name}.say").read_text(encoding="utf-8")))
    if control(f"{name}.print").exists():
        sys.stdout.write(control(f"{name}.print").read_text(encoding="utf-8"))
        sys.stdout.flush()
    if control(f"{name}.fail").exists():
        raise ValueError(control(f"{name}.fail").read_text())
    if control(f"{name}.hang").exists():
        raise AttemptLost(control(f"{name}.hang").read_text())
    if control(f"{name}.refuse").exists():
        raise InputError(control(f"{name}.refuse").read_text())
    if context.job.kind == Kind.generate:
        context.sink.emit(Text(0, "once upon", "prompt"))
        context.sink.emit(Text(0, " a time"))
        context.sink.emit(Text(0, "length", "end"))
    (context.output / "half.bin").unlink()
    (context.output / "parts").mkdir()
    (context.output / "parts" / "result.txt").write_text(f"{name}: {sorted(context.inputs)}")
    context.sink.emit(Message(f"{name} is done"))
    return WorkResult({"turns_before": before, "turns": done, "loss": float("nan")})


def fingerprint(job: Job) -> Mapping[str, str]:
    """Returns the digest of a job's text."""
    text = getattr(job.inputs, "text", None)  # type: ignore[attr-defined]
    if text is None:
        return {}
    files = [Path(name) for name in text]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise InputError(f"inputs.text {missing[0]}: no such file")
    return {"text": digest_of_files(files)}


def main(service: str, *kinds: Kind) -> None:
    """Runs the service."""

    def generate(arguments: object) -> int:
        sys.stdout.write(f"generated {arguments}\n")
        return 0

    commands = {"generate": generate} if service == "inference" else None
    service_main(service, {kind: Work(run=work, fingerprint=fingerprint) for kind in kinds}, commands)
