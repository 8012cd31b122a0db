"""Programs that try to break out do not; those that are right pass, those that are wrong fail."""

import gzip
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
import tests.yuan_evaluator.attacks as attacks_module
from tests.yuan_evaluator.attacks import LIMITS, SECRET, run_all

import yuan_evaluator
import yuan_events
from yuan_evaluator.sandbox import pool
from yuan_evaluator.sandbox.backends import Backend
from yuan_evaluator.sandbox.limits import Limits, Outcome
from yuan_evaluator.sandbox.pool import Sandbox, open_sandbox
from yuan_events import InputError, WorkFailed

PYTHON = "/usr/bin/python3"
NOBODY = 54321
DATA = Path(__file__).parents[2].parent / "shared/data"


@pytest.fixture(scope="module")
def sandbox():
    try:
        opened = open_sandbox()
    except InputError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


def check(found: dict) -> None:
    """Every attack came to nothing."""
    outside = found.pop("outside")
    assert outside == {"left": [], "files": ["secret"]}
    for name, verdict in found.items():
        assert "BREACH" not in verdict["output"], (name, verdict)
        assert SECRET not in verdict["output"], name
        assert "root:" not in verdict["output"], name
        assert verdict["lives"], name
    assert int(found["forks without end"]["output"].split()[-1]) <= LIMITS.processes + 4
    assert found["forks that fork"]["outcome"] in ("failed", "timeout")
    assert found["allocates 100 GB"]["outcome"] == "memory"
    assert found["allocates by many hands"]["outcome"] == "memory"
    assert found["writes a large file"]["detail"].startswith("OSError")
    assert found["ignores SIGTERM"]["outcome"] == "timeout"
    assert found["prints 10 GB"]["outcome"] == "output"
    if disk := found.get("fills the disk"):
        assert int(disk["output"].removeprefix("stopped at")) <= 2 * LIMITS.file_mib


def test_attacks_come_to_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARENT_SECRET", SECRET)
    check(run_all(sandbox))


def attack_as(user: int | None, where: str) -> dict:
    path = [str(Path(package.__file__).parents[1]) for package in (yuan_evaluator, yuan_events)]
    done = subprocess.run(
        [PYTHON, "-B", attacks_module.__file__, where],
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        env={"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["namespaces", "bubblewrap"])
@pytest.mark.skipif(os.geteuid() != 0 or not Path(PYTHON).exists(), reason="needs root, to be somebody else")
def test_attacks_come_to_nothing_for_a_user_without_rights(backend: str) -> None:
    if backend == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if subprocess.run([PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False).returncode:
        pytest.skip(f"{PYTHON} is older than 3.11")
    found = attack_as(NOBODY, backend)
    if "refused" in found:
        pytest.skip(str(found["refused"]))
    check(found)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not Path(PYTHON).exists(), reason="needs root, as in its container")
def test_attacks_come_to_nothing_in_a_container_that_shares_a_network(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    # A Python that others may start too, as the one in the image; with our packages.
    packages = [
        Path(sqlalchemy.__file__).parents[1],
        *(Path(one.__file__).parents[1] for one in (yuan_evaluator, yuan_events)),
    ]
    command = [PYTHON, "-m", "yuan_evaluator", "sandbox", "--socket", str(place), "--deny-network"]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, packages))}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        assert "answers at" in process.stderr.readline()
        with open_sandbox(socket_path=str(place)) as opened:
            assert opened.name == "container"
            assert "network" not in opened.probe()
            # There is no container around it here: what it sees of files and disks is this machine's.
            check(run_all(opened, "fills the disk", "reads what is not its own"))
        # Its own process has given up the network as well, not only the programs that it starts.
        assert "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()
    finally:
        process.terminate()
        process.wait(30)
    with pytest.raises(InputError, match="does not answer"):
        open_sandbox(socket_path=str(place))


DENIED = """
import errno, os, socket, sys
from yuan_evaluator.sandbox import seccomp
before = socket.socket()
before.close()
assert seccomp.deny_network()
own, other = socket.socketpair()
own.sendall(b"a Unix socket works")
assert other.recv(99) == b"a Unix socket works"
for family in range(2, 46):
    for kind in (1, 2, 3, 5, 1 | socket.SOCK_CLOEXEC):
        for make in (socket.socket, socket.socketpair):
            try:
                make(family, kind)
            except OSError as error:
                if error.errno == errno.EPERM: continue
            print("BREACH", family, kind)
pid = os.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', PORT))"])
print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows x86-64 and aarch64")
def test_who_has_given_up_the_network_makes_unix_sockets_alone_and_so_do_its_children() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = DENIED.replace("PORT", str(server.getsockname()[1]))
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "child 1\n", (done.stdout, done.stderr)
    assert "PermissionError" in done.stderr


def test_where_nothing_confines_programs_are_refused_unless_it_is_said_that_they_may_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_probe(self: Sandbox) -> str:
        return f"sandbox ({self.name}): unshare: operation not permitted"

    monkeypatch.delenv(pool.SOCKET_VARIABLE, raising=False)
    monkeypatch.setattr(Sandbox, "probe", no_probe)
    with pytest.raises(InputError, match=r"cannot be confined here: .*not permitted.*evaluate.sandbox.unsafe"):
        open_sandbox()
    with open_sandbox(unsafe=True) as opened:
        assert opened.backend is Backend.none
        assert opened.run("assert 2 > 1", LIMITS).passed
        assert opened.run("bytearray(100 << 30)", LIMITS).outcome is Outcome.memory


def test_what_is_no_sandbox_is_found_out_by_its_probe() -> None:
    with Sandbox(Backend.none) as opened:
        assert "reads files of who runs it" in opened.probe()


def test_only_a_program_that_reaches_its_last_line_has_passed(sandbox: Sandbox) -> None:
    for program in ("assert 1 == 2, 'unequal'", "import os; os._exit(0)", "raise SystemExit(0)", "def f(:", "exit()"):
        verdict = sandbox.run(program, LIMITS)
        assert verdict.outcome is Outcome.failed, program
        assert verdict.detail
    assert sandbox.run("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", LIMITS).detail == "ended by SIGABRT"
    assert sandbox.run("assert 1 == 1\nprint('好')", LIMITS).output == "好\n"


def test_a_jailer_that_is_gone_is_an_error_and_no_verdict(sandbox: Sandbox) -> None:
    with Sandbox(sandbox.backend) as own:
        own.run("pass", LIMITS)
        own._all[0]._process.kill()
        with pytest.raises(WorkFailed, match="gone away"):
            own.run("pass", LIMITS)


_CHANGED = """
def _changed(value):
    if value is None: return 1
    if isinstance(value, bool): return not value
    if isinstance(value, (int, float)): return value + 1
    if isinstance(value, str): return value + "x"
    if isinstance(value, (list, tuple)): return type(value)([*value, 0])
    return [value]
_right = {name}
def {name}(*given): return _changed(_right(*given))
"""


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_all_canonical_solutions_of_humaneval_pass_and_all_changed_ones_fail(sandbox: Sandbox) -> None:
    with gzip.open(DATA / "humaneval/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        problems = [json.loads(line) for line in file]
    assert len(problems) == 164
    programs = []
    for problem in problems:
        name = problem["entry_point"]
        right = problem["prompt"] + problem["canonical_solution"]
        end = f"\n{problem['test']}\ncheck({name})\n"
        programs += [right + end, right + _CHANGED.format(name=name) + end]
    verdicts = list(sandbox.map(programs, Limits(wall_seconds=60, cpu_seconds=60)))
    assert [v.detail for v in verdicts[0::2] if not v.passed] == []
    assert [p["task_id"] for p, v in zip(problems, verdicts[1::2], strict=True) if v.passed] == []
