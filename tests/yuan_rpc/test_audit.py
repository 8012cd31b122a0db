"""Who did what: a line for every change and refusal, nothing of what was asked, files that do not grow for ever."""

import asyncio
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from tests.yuan_rpc.toys import ToyData, toy_server

from yuan_events import InputError
from yuan_manifest.schema import Role
from yuan_rpc import AuditEntry, AuditLog, Connection, RpcFailed, Security, audited, read_audit
from yuan_rpc.audit import REFUSALS_PER_MINUTE
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from yuan_rpc.tokens import TokenStore


def entry(**changes: Any) -> AuditEntry:
    return replace(AuditEntry("alice", "viewer", "data", "/a.B/C", {"id": "7"}, "OK", "ipv4:127.0.0.1:1"), **changes)


def files(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text().splitlines()) for path in sorted(folder.glob("*.jsonl"))}


def served(folder: Path, security: Security, *calls: Callable[[Any, Any], Any], **toy: Any) -> list[dict[str, Any]]:
    """Returns what the log says after calls of a server of toys, each given the stubs of jobs and of data."""

    async def run() -> None:
        async with toy_server(ToyData(**toy), security, audit=AuditLog(folder)) as server:
            for call in calls:
                client = Security(security.token_file)
                with Connection("data", "127.0.0.1", server.port, client) as connection:
                    jobs = connection.stub(jobs_pb2_grpc.JobServiceStub)
                    data = connection.stub(data_pb2_grpc.DataServiceStub)
                    try:
                        with connection.errors():
                            await asyncio.to_thread(call, jobs, data)
                    except RpcFailed:
                        pass
                await connection.aclose()

    asyncio.run(run())
    return list(read_audit(folder))


def submit(jobs: Any, data: Any) -> None:
    job = Struct()
    job.update({"kind": "pretrain", "name": "demo", "secret": "hunter2"})
    jobs.Submit(jobs_pb2.SubmitRequest(job=job))


def test_a_change_is_told_with_who_and_what_and_a_read_is_not(tmp_path: Path, token: Security) -> None:
    rows = served(tmp_path, token, submit, lambda _, data: data.Tokenize(data_pb2.TokenizeRequest(text="ab")))
    (row,) = rows
    assert row["peer"].startswith("ipv4:127.0.0.1:")
    assert row["time"] > "2026"
    assert {key: row[key] for key in row.keys() - {"time", "peer"}} == {
        "subject": "owner",
        "role": "admin",
        "service": "data",
        "method": "/yuan.jobs.v1.JobService/Submit",
        "object": {"job.kind": "pretrain", "job.name": "demo"},
        "outcome": "OK",
        "stream": "changes",
    }


def test_a_change_that_failed_is_told_with_its_status(tmp_path: Path, token: Security) -> None:
    rows = served(tmp_path, token, submit, lambda jobs, _: jobs.Cancel(jobs_pb2.CancelRequest(id="abc")), failures=1)
    assert [(row["outcome"], row["object"]) for row in rows] == [
        ("UNAVAILABLE", {"job.kind": "pretrain", "job.name": "demo"}),
        ("INTERNAL", {"id": "abc"}),
    ]


def test_a_refusal_is_told_with_its_reason_and_without_the_token(tmp_path: Path, token: Security) -> None:
    assert token.token_file is not None
    tokens = token.token_file.with_name("tokens.json")
    _, secret = TokenStore(tokens).issue("vera", Role.viewer)
    rows: list[dict[str, Any]] = []
    for number, text in enumerate((secret, "wrong-and-distinctive")):
        brought = tmp_path / f"brought-{number}"
        brought.touch(0o600)
        brought.write_text(text)
        server = Security(token.token_file, tokens)

        async def run(server: Security = server, brought: Path = brought) -> None:
            async with (
                toy_server(ToyData(), server, audit=AuditLog(tmp_path / "audit")) as started,
                Connection("data", "127.0.0.1", started.port, Security(brought)) as connection,
            ):
                with pytest.raises(RpcFailed), connection.errors():
                    await connection.aio_stub(jobs_pb2_grpc.JobServiceStub).Submit(jobs_pb2.SubmitRequest())

        asyncio.run(run())
    rows = list(read_audit(tmp_path / "audit"))
    assert [(row["subject"], row["role"], row["outcome"], row["stream"]) for row in rows] == [
        ("vera", "viewer", "PERMISSION_DENIED", "refusals"),
        ("unknown", "", "UNAUTHENTICATED", "refusals"),
    ]
    assert rows[0]["reason"] == "Submit is for the role operator and above; vera has viewer"
    text = (tmp_path / "audit" / "refusals.jsonl").read_text()
    assert secret not in text
    assert "distinctive" not in text


def test_what_was_asked_stands_in_no_line(tmp_path: Path, token: Security) -> None:
    served(tmp_path, token, submit)
    assert "hunter2" not in "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))


def test_files_are_set_aside_by_size_and_the_oldest_go(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, file_bytes=1000, files=2)
    for number in range(40):
        log.change(entry(object={"id": str(number)}))
    log.refusal(entry())
    there = files(tmp_path)
    assert len(there) == 4
    assert all(path.stat().st_size <= 1000 for path in tmp_path.glob("*.jsonl"))
    ids = [int(row["object"]["id"]) for row in read_audit(tmp_path) if row["stream"] == "changes"]
    assert ids == list(range(40 - len(ids), 40))
    assert min(int(name[8:14]) for name in there if name.startswith("changes-")) > 1
    assert (tmp_path / "changes.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_flood_of_refusals_is_counted_and_pushes_no_change_out(tmp_path: Path) -> None:
    now = 0.0
    log = AuditLog(tmp_path, file_bytes=2000, files=1, clock=lambda: now)
    log.change(entry(object={"id": "kept"}))
    for _ in range(REFUSALS_PER_MINUTE + 50):
        log.refusal(entry(outcome="UNAUTHENTICATED"))
    now = 61.0
    log.refusal(entry(outcome="UNAUTHENTICATED"))
    rows = list(read_audit(tmp_path))
    assert [row["object"]["id"] for row in rows if row["stream"] == "changes"] == ["kept"]
    assert rows[-1]["omitted"] == 50


def _write(folder: Path, number: int) -> None:
    log = AuditLog(folder, file_bytes=4000, files=100)
    for count in range(50):
        log.change(entry(subject=f"p{number}", object={"id": str(count)}))


def test_processes_that_write_at_once_lose_and_mix_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    rows = list(read_audit(tmp_path))
    assert len(rows) == 200
    assert len({(row["subject"], row["object"]["id"]) for row in rows}) == 200


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.change(entry())
    with (tmp_path / "changes.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    log.change(entry(subject="bob"))
    assert [row["subject"] for row in read_audit(tmp_path)] == ["alice", "bob"]


def test_a_line_that_cannot_be_written_goes_into_the_servers_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    AuditLog(tmp_path / "file").change(entry())
    assert "cannot write the audit log" in caplog.text
    assert '"subject": "alice"' in caplog.text


def test_text_of_a_caller_makes_no_line_of_its_own(tmp_path: Path) -> None:
    AuditLog(tmp_path).change(entry(object={"id": 'x"}\n{"subject": "owner"' + "y" * 1000}))
    (line,) = (tmp_path / "changes.jsonl").read_text().splitlines()
    assert len(json.loads(line)["object"]["id"]) == 200


def test_a_user_of_the_machine_is_told_of_with_what_came_of_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    with audited(log, "yuan restore", {"file": "f"}):
        pass
    with pytest.raises(InputError), audited(log, "yuan restore", {"file": "f"}):
        raise InputError("no")
    rows = list(read_audit(tmp_path))
    assert [row["outcome"] for row in rows] == ["OK", "InputError"]
    assert all(row["subject"].startswith("os:") for row in rows)
