"""A stack of real processes comes up, says what it does, takes over changes, and leaves nothing when it ends."""

import json
import os
import signal
import socket

import pytest
import redis
from tests.machine import wait_until
from toy_home import is_alive
from toy_stack import ToyStack

from yuan_jobs.broker import broker_url
from yuan_manifest import load_cluster

ALL = {"broker", "data-server", "data-worker-1", "trainer-server"}


def test_a_detached_stack_is_up_when_the_command_returns_and_nothing_is_left_after_down(stack: ToyStack) -> None:
    ended = stack.command("up", "--detach")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].startswith("the stack is up; ")
    pids = stack.pids()
    assert set(pids) == ALL
    assert (stack.home / "token").stat().st_mode & 0o777 == 0o600

    shown = stack.command("status", "--json")
    status = json.loads(shown.stdout)
    assert shown.returncode == 0, status
    assert status["up"]
    assert {row["name"]: (row["state"], row["health"]) for row in status["processes"]} == {
        "data-server": ("up", "serving"),
        "data-worker-1": ("up", None),
        "trainer-server": ("up", "serving"),
    }
    assert status["broker"]["answers"]
    assert status["broker"]["queues"] == {"data": 0, "trainer": 0}
    assert "secret" not in shown.stdout
    assert broker_url(load_cluster("stack.yaml").cluster).partition("@")[0] not in shown.stdout

    again = stack.command("up", "--detach")
    assert (again.returncode, again.stderr) == (0, "")
    assert "runs already" in again.stdout
    assert stack.pids() == pids

    down = stack.command("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert stack.left() == []
    assert not any(is_alive(pid) for pid in pids.values())
    assert sorted(stack.names_of("ends")) == ["data-server", "data-worker", "trainer-server"]
    assert (stack.stack / "logs" / "data-server.log").exists()

    twice = stack.command("down")
    assert (twice.returncode, twice.stdout) == (0, f"nothing runs in {stack.home}\n")
    nothing = stack.command("status")
    assert (nothing.returncode, nothing.stdout) == (1, f"nothing runs in {stack.home}; start the stack with: yuan up\n")


def test_up_and_down_tell_programs_in_json_and_people_on_stderr(stack: ToyStack) -> None:
    def told(name: str, *options: str) -> tuple[object, str]:
        ended = stack.command(name, *options, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout), ended.stderr

    planned = [
        {"name": name, "action": "start", "reasons": []}
        for name in ("broker", "data-server", "data-worker-1", "trainer-server")
    ]
    assert told("up", "--dry-run") == (planned, "")
    status, lines = told("up", "--detach")
    assert isinstance(status, dict)
    assert (status["up"], status["home"]) == (True, str(stack.home))
    assert {row["name"]: row["pid"] for row in status["processes"]}.items() <= stack.pids().items()
    assert lines.splitlines()[-1].startswith("the stack is up; ")
    assert told("up", "--dry-run") == ([], "")
    stays = stack.command("up", "--json")
    assert (stays.returncode, stays.stdout) == (2, "")
    assert "add --detach or --dry-run" in stays.stderr
    found, lines = told("down")
    assert found == {"home": str(stack.home), "found": "running"}
    assert lines.splitlines()[-1] == f"the stack of {stack.home} has ended"
    assert told("down") == ({"home": str(stack.home), "found": "nothing"}, f"nothing runs in {stack.home}\n")


def test_in_the_foreground_what_dies_is_shown_and_started_again_and_ctrl_c_ends_all(stack: ToyStack) -> None:
    process = stack.foreground()
    assert process.stdout is not None
    os.kill(stack.pids()["data-worker-1"], signal.SIGKILL)
    assert process.stdout.readline() == "data-worker-1   ended (SIGKILL); starts again in 1 s\n"
    assert process.stdout.readline() == f"data-worker-1   up (pid {stack.pids()['data-worker-1']})\n"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1] == "the stack has ended"
    assert stack.left() == []


def test_a_taken_port_is_one_line_before_anything_starts(stack: ToyStack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", stack.trainer_port))
        other.listen()
        ended = stack.command("up")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert f"port {stack.trainer_port} is taken by " in ended.stderr
    assert f"(pid {os.getpid()})" in ended.stderr
    assert "cluster.services.trainer.port" in ended.stderr
    assert stack.names_of("starts") == []
    assert stack.left() == []


def test_who_comes_while_a_stack_starts_waits_with_the_one_that_started_it(stack: ToyStack) -> None:
    (stack.control / "trainer-server.slow").touch()
    first = stack.start("yuan_cli.main", "up", "-f", "stack.yaml", "--detach")
    wait_until(lambda: "trainer-server" in stack.names_of("starts"))
    second = stack.start("yuan_cli.main", "up", "-f", "stack.yaml", "--detach")
    assert second.stdout is not None
    assert second.stdout.readline().endswith("; it is still coming up\n")
    assert second.poll() is None
    (stack.control / "trainer-server.slow").unlink()
    stdout, stderr = second.communicate(timeout=60)
    assert (second.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1] == "the stack is up"
    assert stack.records()["trainer-server"]["state"] == "up"
    assert first.wait(60) == 0


def test_a_tls_file_that_is_missing_is_one_line_and_touches_nothing(stack: ToyStack) -> None:
    before = stack.up()
    followed = (stack.stack / "cluster.yaml").read_text()
    stack.write(others="security: {tls: {certificate: tls/nope.pem, key: tls/nope.key, authority: tls/ca.pem}}")
    for options in (("--dry-run",), ("--detach",)):
        ended = stack.command("up", *options)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert ended.stderr.endswith("/tls/nope.pem: No such file or directory; see cluster.security.tls.certificate\n")
    assert stack.pids() == before
    assert (stack.stack / "cluster.yaml").read_text() == followed


def test_a_process_that_cannot_come_up_is_named_with_its_last_line_and_nothing_stays(stack: ToyStack) -> None:
    (stack.control / "trainer-server.fail").write_text("2 the disk is on fire")
    ended = stack.command("up", "--detach")
    assert ended.returncode == 1
    log = stack.stack / "logs" / "trainer-server.log"
    assert ended.stderr == f"trainer-server ended (exit code 2): the disk is on fire (log: {log})\n"
    assert stack.left() == []


@pytest.mark.slow
def test_a_change_restarts_what_it_concerns_and_dry_run_says_so_before(stack: ToyStack) -> None:
    before = stack.up()
    old = stack.trainer_port
    stack.trainer_port = stack.spare_port
    stack.write(data="workers: 2")
    planned = stack.command("up", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines() == [
        "would start    data-worker-2",
        f"would restart  trainer-server  cluster.services.trainer.port: {old} -> {stack.spare_port}",
    ]
    assert stack.pids() == before
    ended = stack.command("up")
    assert ended.returncode == 0, ended.stderr
    after = stack.pids()
    assert {name for name in ALL if after[name] == before[name]} == ALL - {"trainer-server"}
    assert is_alive(after["data-worker-2"])
    stack.write(trainer="workers: 0, host: localhost")
    ended = stack.command("up", "--detach")
    assert ended.returncode == 0, ended.stderr
    assert "data-worker-2   stopped" in ended.stdout
    assert not is_alive(after["data-worker-2"])


@pytest.mark.slow
def test_the_broker_outlives_a_killed_supervisor_and_the_next_one_takes_it_over(stack: ToyStack) -> None:
    pids = stack.up()
    url = broker_url(load_cluster("stack.yaml").cluster)
    redis.Redis.from_url(url).set("kept", "yes")
    os.kill(stack.state()["pid"], signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for name, pid in pids.items() if name != "broker"))
    assert is_alive(pids["broker"])
    again = stack.up()
    assert again["broker"] == pids["broker"]
    assert broker_url(load_cluster("stack.yaml").cluster) == url
    assert redis.Redis.from_url(url).get("kept") == b"yes"


@pytest.mark.slow
def test_the_broker_is_for_those_who_know_its_password(stack: ToyStack) -> None:
    stack.write(data="workers: 0", trainer="workers: 0")
    stack.up()
    url = broker_url(load_cluster("stack.yaml").cluster)
    assert "@127.0.0.1:" in url
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url("redis://" + url.partition("@")[2]).ping()
    for path in (stack.stack, stack.stack / "broker.url", stack.stack / "cluster.yaml", stack.stack / "state.json"):
        assert path.stat().st_mode & 0o077 == 0, path
