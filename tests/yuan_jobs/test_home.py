"""One run at a time in a home, whatever becomes of the processes; and homes that cannot be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.machine import wait_until
from toy_home import Toys

from yuan_events import InputError
from yuan_jobs.home import Home, HomeLock, slug
from yuan_manifest.schema import Cluster

HOLDER = """
import os, sys, time
from yuan_jobs.home import Home, HomeLock
from yuan_manifest.schema import Cluster
home = Home.of(Cluster(sys.argv[1], "sqlite:///r.db", sys.argv[1] + "/store"))
with HomeLock.acquire(home, "holder") as lock:
    if len(sys.argv) > 2:
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", sys.stdin.read(), sys.argv[1]],
            pass_fds=[lock.descriptor], env={**os.environ, **lock.environment()}, stdin=subprocess.DEVNULL)
    print("held", flush=True)
    time.sleep(600)
"""


def home_of(path: Path) -> Home:
    return Home.of(Cluster(str(path), f"sqlite:///{path}/registry.db", f"{path}/store"))


def start_holder(path: Path, *arguments: str, child: str | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(child or "")
    process.stdin.close()
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_in_one_home_is_told_who_is_at_work(tmp_path: Path) -> None:
    with start_holder(tmp_path / "home") as holder:
        try:
            with pytest.raises(InputError) as error:
                HomeLock.acquire(home_of(tmp_path / "home"), "second")
            assert f"is busy: holder (process {holder.pid}) is at work in it" in str(error.value)
        finally:
            holder.kill()


def test_two_homes_do_not_disturb_each_other(tmp_path: Path) -> None:
    with start_holder(tmp_path / "one") as holder:
        try:
            HomeLock.acquire(home_of(tmp_path / "two"), "other").release()
        finally:
            holder.kill()


def test_a_killed_run_leaves_the_home_free(tmp_path: Path) -> None:
    with start_holder(tmp_path / "home") as holder:
        holder.send_signal(signal.SIGKILL)
    HomeLock.acquire(home_of(tmp_path / "home"), "next").release()


def test_a_child_takes_over_the_lock_of_its_parent_and_keeps_it_when_the_parent_dies(tmp_path: Path) -> None:
    signs = tmp_path / "child"
    child = (
        "import os, sys, time\n"
        "from yuan_jobs.home import Home, HomeLock, LOCK_VARIABLE\nfrom yuan_manifest.schema import Cluster\n"
        "home = Home.of(Cluster(sys.argv[1], 'sqlite:///r.db', sys.argv[1] + '/store'))\n"
        "lock = HomeLock.acquire(home, 'child')\n"
        "assert LOCK_VARIABLE not in os.environ and not os.get_inheritable(lock.descriptor)\n"
        f"open({str(signs)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    with start_holder(tmp_path / "home", "with-child", child=child) as holder:
        wait_until(lambda: signs.exists() and signs.read_text() != "")
        holder.kill()
    home = home_of(tmp_path / "home")
    descriptor = os.open(home.path / "run.lock", os.O_RDWR)
    import fcntl

    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    os.kill(int(signs.read_text()), signal.SIGKILL)
    # The holder that the file names is dead: we wait for its processes to end instead of refusing.
    HomeLock.acquire(home, "next").release()


def test_a_lock_of_another_home_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HomeLock.acquire(home_of(tmp_path / "one"), "first") as first:
        monkeypatch.setenv("YUAN_RUN_LOCK_FD", str(first.descriptor))
        with HomeLock.acquire(home_of(tmp_path / "two"), "second") as second:
            assert second.descriptor != first.descriptor
    monkeypatch.setenv("YUAN_RUN_LOCK_FD", "999")
    HomeLock.acquire(home_of(tmp_path / "one"), "third").release()


def test_a_home_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(InputError, match=r"home .*/home: not a folder; set YUAN_HOME"):
        home_of(tmp_path / "home")
    with pytest.raises(InputError, match="not a folder"):
        home_of(tmp_path / "home" / "below")


def test_a_home_where_nothing_can_be_written_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"home /proc/yuan: .*set YUAN_HOME"):
        home_of(Path("/proc/yuan"))


def test_paths_are_absolute_and_tildes_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = Home.of(Cluster(home="~/h", registry="sqlite:///~/h/r.db", store="relative/store"))
    assert home == Home(tmp_path / "h", f"sqlite:///{tmp_path}/h/r.db", str(tmp_path / "relative/store"))
    assert Home.of(Cluster(home="~/h", registry="sqlite:///r.db", store="s3://bucket/x")).store == "s3://bucket/x"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("demo", "demo"), ("a/b c", "a-b-c"), ("演示", "model"), ("../..", "model"), ("x" * 60, "x" * 40)],
)
def test_any_name_of_a_job_can_be_part_of_a_file_name(name: str, expected: str) -> None:
    assert slug(name, "model") == expected


def test_a_run_through_the_command_line_is_refused_while_another_holds_the_home(toys: Toys) -> None:
    toys.hold("first")
    toys.start("yuan_cli.main", "run", "tokenizer.yaml")
    toys.await_work("first")
    second = toys.yuan("run", "tokenizer.yaml")
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert "is busy: first (process" in second.stderr
