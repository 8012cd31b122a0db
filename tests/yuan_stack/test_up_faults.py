"""What happens to a stack when its parts are killed, stopped, wiped, or told two things at once."""

import json
import os
import shutil
import signal
import socket
from typing import Any

import pytest
import redis
from tests.machine import wait_until
from toy_home import is_alive, is_child_of
from toy_stack import ToyStack

from yuan_jobs.broker import broker_url
from yuan_manifest import load_cluster

pytestmark = pytest.mark.slow


def url_of(name: str = "stack.yaml") -> str:
    return broker_url(load_cluster(name).cluster)


def test_down_ends_what_a_killed_supervisor_has_left(stack: ToyStack) -> None:
    pids = stack.up()
    os.kill(stack.state()["pid"], signal.SIGKILL)
    ended = stack.command("down")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "had been killed" in ended.stdout
    assert not any(is_alive(pid) for pid in pids.values())
    assert stack.left() == []


def test_a_foreground_stack_ends_in_order_when_its_terminals_process_is_killed(stack: ToyStack) -> None:
    process = stack.foreground()
    pids = stack.pids()
    process.kill()
    wait_until(lambda: stack.left() == [])
    assert not any(is_alive(pid) for pid in pids.values())
    assert sorted(stack.names_of("ends")) == ["data-server", "data-worker", "trainer-server"]


def test_a_foreground_stack_whose_supervisor_is_killed_says_so(stack: ToyStack) -> None:
    process = stack.foreground()
    os.kill(stack.state()["pid"], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == ("the supervisor was ended by SIGKILL; its processes end with it; start anew with: yuan up\n")


def test_a_killed_broker_comes_back_where_it_was_with_what_it_held(stack: ToyStack) -> None:
    before = stack.up()
    url = url_of()
    redis.Redis.from_url(url).rpush("yuan.data", "message")
    os.kill(before["broker"], signal.SIGKILL)
    stack.await_up("broker", other_than=before["broker"])
    assert url_of() == url
    assert redis.Redis.from_url(url).lrange("yuan.data", 0, -1) == [b"message"]
    after = stack.pids()
    assert {name for name in after if after[name] != before[name]} == {"broker"}
    assert stack.records()["broker"]["restarts"] == 1


def test_a_broker_whose_data_were_wiped_comes_back_empty(stack: ToyStack) -> None:
    before = stack.up()
    redis.Redis.from_url(url_of()).rpush("yuan.data", "message")
    shutil.rmtree(stack.stack / "valkey")
    os.kill(before["broker"], signal.SIGKILL)
    stack.await_up("broker", other_than=before["broker"])
    assert redis.Redis.from_url(url_of()).llen("yuan.data") == 0


def test_what_the_broker_held_is_there_after_down_and_up(stack: ToyStack) -> None:
    stack.up()
    redis.Redis.from_url(url_of()).rpush("yuan.data", "message")
    assert stack.command("down").returncode == 0
    stack.up()
    assert redis.Redis.from_url(url_of()).llen("yuan.data") == 1


def test_a_broker_that_hangs_after_its_supervisor_was_killed_is_replaced(stack: ToyStack) -> None:
    before = stack.up()
    supervisor = stack.state()["pid"]
    os.kill(supervisor, signal.SIGKILL)
    # The system wakes stopped children of a process that ends, which is when its last thread ends: after it looks dead.
    wait_until(lambda: not is_child_of(before["broker"], supervisor))
    os.kill(before["broker"], signal.SIGSTOP)
    after = stack.up()
    assert after["broker"] != before["broker"]
    assert not is_alive(before["broker"])


def test_what_ends_again_and_again_waits_longer_and_status_has_its_last_line(stack: ToyStack) -> None:
    pids = stack.up()
    (stack.control / "data-worker.fail").write_text("1 no space left on device")
    os.kill(pids["data-worker-1"], signal.SIGKILL)
    record: dict[str, Any] = {}

    def waits_for_long() -> bool:
        record.update(stack.records()["data-worker-1"])
        return record["failures"] >= 4 and record["state"] == "waiting"  # for so long that status and up find it so

    wait_until(waits_for_long)
    assert record["retry_seconds"] == pytest.approx(2 ** (record["failures"] - 1))
    shown = stack.command("status")
    assert shown.returncode == 1
    assert "data-worker-1: no space left on device" in shown.stdout
    again = stack.command("up")
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == "data-worker-1 ended (exit code 1): no space left on device"
    (stack.control / "data-worker.fail").unlink()
    stack.await_up("data-worker-1")


def test_a_change_that_does_not_come_up_fails_and_the_rest_goes_on(stack: ToyStack) -> None:
    before = stack.up()
    stack.write(data="workers: 2")
    (stack.control / "data-worker.fail").write_text("2 wrong")
    ended = stack.command("up")
    assert ended.returncode == 1
    assert ended.stderr.startswith("data-worker-2 ended (exit code 2): wrong (log: ")
    after = stack.pids()
    assert {name for name in before if after[name] != before[name]} == set()


def test_changing_who_may_call_restarts_every_process_and_the_topology_only_servers(stack: ToyStack) -> None:
    before = stack.up()
    stack.write(parallel="{pipeline: 2}")
    assert stack.command("up").returncode == 0
    after = stack.pids()
    assert {name for name in before if after[name] != before[name]} == {"data-server", "trainer-server"}
    stack.write(parallel="{pipeline: 2}", others=f"security: {{token_file: {stack.home}/other}}")
    planned = stack.command("up", "--dry-run").stdout.splitlines()
    assert planned[0] == "would restart  data-server     cluster.security.token_file"
    assert stack.command("up").returncode == 0
    assert (stack.home / "other").exists()
    last = stack.pids()
    assert {name for name in before if last[name] != after[name]} == {"data-server", "data-worker-1", "trainer-server"}


def test_two_services_can_exchange_their_ports(stack: ToyStack) -> None:
    stack.up()
    stack.data_port, stack.trainer_port = stack.trainer_port, stack.data_port
    stack.write()
    ended = stack.command("up")
    assert ended.returncode == 0, ended.stderr
    status = json.loads(stack.command("status", "--json").stdout)
    assert status["up"]


def test_two_stacks_run_side_by_side(stack: ToyStack) -> None:
    other = ToyStack(stack.folder / "other")
    try:
        first = stack.up()
        second = json.loads(stack.command("status", "--json").stdout)
        shutil.copy(other.folder / "stack.yaml", stack.folder / "other.yaml")
        assert stack.yuan("up", "-f", "other.yaml", "--detach").returncode == 0
        assert len({*other.pids().values(), *first.values()}) == 8
        for name, home in (("stack.yaml", stack.home), ("other.yaml", other.home)):
            shown = json.loads(stack.yuan("status", "-f", name, "--json").stdout)
            assert (shown["up"], shown["home"]) == (True, str(home))
        assert url_of("stack.yaml") != url_of("other.yaml")
        assert stack.yuan("down", "-f", "other.yaml").returncode == 0
        assert other.left() == []
        assert all(is_alive(pid) for pid in first.values())
        assert second["up"]
    finally:
        other.end()


def test_of_two_that_start_a_stack_at_once_one_does_and_both_are_content(stack: ToyStack) -> None:
    both = [stack.start("yuan_cli.main", "up", "-f", "stack.yaml", "--detach") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(stack.names_of("starts")) == ["data-server", "data-worker", "trainer-server"]
    assert sum("runs already" in stdout for stdout, _ in said) == 1


def test_up_waits_for_a_stack_that_is_going_down(stack: ToyStack) -> None:
    (stack.control / "data-worker.stubborn").touch()
    before = stack.up()
    down = stack.start("yuan_cli.main", "down", "-f", "stack.yaml")
    wait_until(lambda: stack.state()["phase"] == "stopping")
    again = stack.start("yuan_cli.main", "up", "-f", "stack.yaml", "--detach")
    assert again.stdout is not None
    assert "is being stopped" in again.stdout.readline()
    os.kill(before["data-worker-1"], signal.SIGKILL)
    (stack.control / "data-worker.stubborn").unlink()
    assert down.wait(60) == 0
    stdout, stderr = again.communicate(timeout=60)
    assert again.returncode == 0, stdout + stderr
    assert stack.pids()["data-server"] != before["data-server"]


def test_ctrl_c_twice_more_ends_a_worker_that_does_not_listen(stack: ToyStack) -> None:
    (stack.control / "data-worker.stubborn").touch()
    process = stack.foreground()
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "Ctrl-C once more" in process.stdout.readline())  # type: ignore[union-attr]
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1] == "the stack has ended"
    assert stack.left() == []


def test_ctrl_c_while_it_comes_up_ends_what_has_started(stack: ToyStack) -> None:
    (stack.control / "trainer-server.slow").touch()
    process = stack.start("yuan_cli.main", "up", "-f", "stack.yaml", "--detach")
    wait_until(lambda: "trainer-server" in stack.names_of("starts"))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted before all was up\n")
    assert stack.left() == []


def test_a_broker_that_is_not_there_is_one_line_before_anything_starts(stack: ToyStack) -> None:
    stack.write(others=f"broker: 'redis://:secret@127.0.0.1:{stack.spare_port}/0'")
    ended = stack.command("up")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"the broker at 127.0.0.1:{stack.spare_port}/0 does not answer (")
    assert len(ended.stderr.splitlines()) == 1
    assert "secret" not in ended.stderr
    assert stack.names_of("starts") == []


def test_a_stack_can_move_to_a_broker_that_is_a_server_and_back(stack: ToyStack) -> None:
    other = ToyStack(stack.folder / "other")
    try:
        other.write(data="workers: 0", trainer="workers: 0")
        shutil.copy(other.folder / "stack.yaml", stack.folder / "other.yaml")
        before = stack.up()
        assert stack.yuan("up", "-f", "other.yaml", "--detach").returncode == 0
        stack.write(others=f"broker: '{url_of('other.yaml')}'")
        ended = stack.command("up")
        assert ended.returncode == 0, ended.stderr
        wait_until(lambda: not is_alive(before["broker"]))
        assert "broker" not in stack.records()
        assert not (stack.stack / "broker.url").exists()
        stack.write()
        ended = stack.command("up")
        assert ended.returncode == 0, ended.stderr
        assert is_alive(stack.pids()["broker"])
    finally:
        other.end()


def test_a_stack_of_another_version_is_one_line_and_can_be_ended(stack: ToyStack) -> None:
    stack.up()
    file = stack.stack / "state.json"
    file.write_text(json.dumps({**stack.state(), "version": "0.0.9"}))
    for name in ("up", "status"):
        ended = stack.command(name)
        assert ended.returncode == 2
        assert "runs version 0.0.9" in ended.stderr
        assert "yuan down && yuan up" in ended.stderr
    assert stack.command("down").returncode == 0
    assert stack.left() == []


def test_a_token_file_that_others_can_read_is_refused(stack: ToyStack) -> None:
    stack.home.mkdir()
    (stack.home / "token").write_text("word\n")
    (stack.home / "token").chmod(0o644)
    ended = stack.command("up")
    assert ended.returncode == 2
    assert "chmod 600" in ended.stderr
    assert stack.left() == []


def test_servers_that_somebody_else_runs_have_a_status(stack: ToyStack) -> None:
    stack.up()
    text = (stack.folder / "stack.yaml").read_text()
    elsewhere = text.replace(
        f"home: {stack.home}", f"home: {stack.folder}/elsewhere\n  security: {{token_file: {stack.home}/token}}"
    )
    (stack.folder / "elsewhere.yaml").write_text(elsewhere)
    shown = stack.yuan("status", "-f", "elsewhere.yaml")
    assert shown.returncode == 0, shown.stdout
    assert "not started here" in shown.stdout
    assert shown.stdout.count("serving") == 2


def test_dry_run_finds_a_taken_port_too_and_makes_nothing(stack: ToyStack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", stack.data_port))
        other.listen()
        ended = stack.command("up", "--dry-run")
    assert ended.returncode == 2
    assert "cluster.services.data.port" in ended.stderr
    assert not stack.home.exists()
