"""`yuan doctor` names what is wrong, and the mend; every fault here is a real one."""

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.machine import free_ports, wait_until
from toy_stack import ToyStack

from yuan_jobs.claims import register_worker
from yuan_jobs.records import NewJob, WorkerIdentity
from yuan_jobs.registry import Registry
from yuan_manifest import load_cluster
from yuan_manifest.schema import ClusterManifest, Device, Launcher, Nodes, Services, Topology
from yuan_rpc import VERSION, ensure_token_file, server_of
from yuan_stack.broker import EmbeddedBroker
from yuan_stack.doctor import Finding, Level
from yuan_stack.doctor.machine import (
    look_at_compiler,
    look_at_devices,
    look_at_launcher,
    look_at_packages,
    look_at_python,
    look_at_sandbox,
)
from yuan_stack.doctor.places import look_at_disks, look_at_home, look_at_store, look_at_token
from yuan_stack.doctor.services import look_at_what_runs
from yuan_stack.folder import StackFolder
from yuan_stack.stack import Stack


def cluster(home: Path, *overrides: str) -> ClusterManifest:
    others = [f"cluster.services.{service.name}=null" for service in fields(Services) if service.name != "data"]
    port = free_ports(1)[0]
    return load_cluster(None, [f"cluster.home={home}", *others, f"cluster.services.data.port={port}", *overrides])


def found(manifest: ClusterManifest) -> dict[str, Finding]:
    return {finding.check: finding for finding in look_at_what_runs(Stack.of(manifest))}


def wrong(manifest: ClusterManifest) -> dict[str, str]:
    return {check: finding.text for check, finding in found(manifest).items() if finding.level is Level.wrong}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB; a test may mount it anew, read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# --- the command ---------------------------------------------------------------------------------------------------


def test_a_machine_without_faults_is_well_and_a_token_that_others_can_read_is_not(stack: ToyStack) -> None:
    well = stack.command("doctor")
    assert (well.returncode, well.stderr) == (0, ""), well.stdout
    assert well.stdout.splitlines()[-1] == "all is well"
    assert not stack.home.exists()

    stack.home.mkdir()
    token = stack.home / "token"
    token.write_text("secret\n")
    token.chmod(0o644)
    ill = stack.command("doctor", "--json")
    assert ill.returncode == 1
    told = json.loads(ill.stdout)
    assert [check for check in told["checks"] if check["level"] == "wrong"] == [
        {
            "check": "token",
            "level": "wrong",
            "text": f"{token}: others can read the token file (mode 0644)",
            "mend": f"run: chmod 600 {token}",
        }
    ]
    assert not told["well"]
    assert sorted(path.name for path in stack.home.iterdir()) == ["token"]


# --- this machine --------------------------------------------------------------------------------------------------


def test_packages_and_python_are_compared_with_what_the_distribution_requires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "yuan_stack-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: yuan-stack\nVersion: 0.1.0\nRequires-Python: >=4\n"
        "Requires-Dist: typer<0.1\nRequires-Dist: redis>=1\nRequires-Dist: nowhere-to-be-found\n"
        "Requires-Dist: also-not-here; extra == 'data'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    python = look_at_python()
    assert (python.level, python.text.endswith("needs >=4")) == (Level.wrong, True)
    core, data = look_at_packages(["data"], needed=True)
    assert core.level is Level.wrong
    assert core.text.startswith("typer 0.")
    assert core.text.endswith("(needs <0.1), nowhere-to-be-found missing")
    assert (data.check, data.level, data.text) == ("packages of data", Level.wrong, "not installed here: also-not-here")
    assert "pip install 'yuan-stack[data]'" in data.mend
    assert look_at_packages(["data"], needed=False)[1].level is Level.note


def test_this_machines_own_packages_are_as_required() -> None:
    assert {finding.level for finding in (look_at_python(), *look_at_packages(["data"], needed=True))} == {Level.ok}


def test_a_compiler_that_is_not_there_or_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert (look_at_compiler().level, look_at_compiler().mend) == (Level.note, "for that: apt-get install g++")
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho no headers >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert "fails: no headers" in look_at_compiler().text


def test_without_a_compiler_it_is_told_where_inference_has_its_compiled_step_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("YUAN_NATIVE_LIBRARIES", str(tmp_path))
    assert "inference computes in torch, without int8 and adapters" in look_at_compiler().text
    (tmp_path / "step-0a-x86-64-v3.so").touch()
    assert f"inference has the compiled step of {tmp_path}" in look_at_compiler().text


def test_a_launcher_without_its_command_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look_at_launcher(Topology(), needed=True) is None
    topology = Topology(launcher=Launcher.kubernetes)
    missing, elsewhere = look_at_launcher(topology, needed=True), look_at_launcher(topology, needed=False)
    assert missing is not None
    assert elsewhere is not None
    assert (missing.level, "kubectl is not installed here" in missing.text) == (Level.wrong, True)
    assert elsewhere.level is Level.note
    (tmp_path / "kubectl").write_text("#!/bin/sh\n")
    (tmp_path / "kubectl").chmod(0o755)
    found = look_at_launcher(topology, needed=True)
    assert found is not None
    assert found.text == f"kubernetes: {tmp_path / 'kubectl'}"


def test_a_sandbox_of_its_own_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YUAN_SANDBOX", str(tmp_path / "socket"))
    assert look_at_sandbox().level is Level.wrong
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        assert look_at_sandbox().level is Level.ok
    monkeypatch.delenv("YUAN_SANDBOX")
    assert look_at_sandbox().level in (Level.ok, Level.note)


def test_metrics_that_cannot_be_read_are_told(home: Path) -> None:
    ports = free_ports(2)
    manifest = cluster(home, f"cluster.services.data.metrics_port={ports[0]}")
    ensure_token_file(Path(manifest.cluster.security.token_file))

    async def asked(other: ClusterManifest) -> Finding:
        async with server_of("data", manifest.cluster, ()):
            return (await asyncio.to_thread(found, other))["data server"]

    well = asyncio.run(asked(manifest))
    assert (well.level, f"metrics at port {ports[0]}" in well.text) == (Level.ok, True)
    data = manifest.cluster.services.data
    assert data is not None
    services = replace(manifest.cluster.services, data=replace(data, metrics_port=ports[1]))
    silent = asyncio.run(asked(replace(manifest, cluster=replace(manifest.cluster, services=services))))
    assert silent.level is Level.note
    assert f"its metrics at 127.0.0.1:{ports[1]} do not answer" in silent.text


def test_a_gpu_that_torch_cannot_use_and_gpus_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that torch can use")
    asked = look_at_devices(Topology(nodes=Nodes(device=Device.cuda, devices=2)))
    assert (asked.level, asked.text) == (Level.wrong, "topology.nodes asks for 2 GPUs and 0 are here")
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    unused = look_at_devices(Topology())
    assert unused.level is Level.wrong
    assert unused.text.startswith("NVIDIA H100 80GB HBM3 is here and torch ")


# --- places --------------------------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_written_in_is_told(mounted: Path) -> None:
    assert look_at_home(mounted).level is Level.ok
    assert list(mounted.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    finding = look_at_home(mounted)
    assert (finding.level, finding.text) == (Level.wrong, f"{mounted} cannot be written in: read-only file system")
    assert look_at_store(str(mounted)).level is Level.wrong
    assert look_at_home(mounted / "new").level is Level.wrong
    assert look_at_store(str(mounted / "new")).level is Level.wrong


def test_a_disk_without_room_is_told_once(mounted: Path) -> None:
    (finding,) = look_at_disks(mounted, str(mounted / "store"))
    assert (finding.level, finding.text) == (Level.wrong, f"0.0 GiB are free where {mounted} is")
    (mounted / "file").write_bytes(b"x" * 4095 * 1024)
    assert look_at_home(mounted).text.endswith("no space left on device")


def test_a_home_that_others_can_change_or_read_passwords_in_is_told(home: Path) -> None:
    assert look_at_home(home).level is Level.ok
    StackFolder(home).make()
    StackFolder(home).path.chmod(0o755)
    assert look_at_home(home).mend == f"run: chmod 700 {home / 'stack'}"
    home.chmod(0o777)
    assert look_at_home(home).mend == f"run: chmod o-w {home}"


def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert look_at_home(file).text == f"{file} is no folder"
    assert look_at_home(file / "below").level is Level.wrong
    assert look_at_store(str(file)).level is Level.wrong


def test_a_token_must_be_there_once_a_stack_runs(home: Path) -> None:
    section = cluster(home).cluster
    assert look_at_token(section, in_use=False).level is Level.ok
    assert "no token file" in look_at_token(section, in_use=True).text
    ensure_token_file(home / "token")
    assert look_at_token(section, in_use=True).level is Level.ok


def test_stores_of_fsspec_are_written_to_and_unknown_ones_are_told() -> None:
    assert look_at_store("memory://artifacts").level is Level.ok
    unknown = look_at_store("nowhere://artifacts")
    assert unknown.level is Level.wrong
    assert "nowhere" in unknown.text


# --- what runs -----------------------------------------------------------------------------------------------------


def test_a_port_that_somebody_else_holds_is_told_with_its_holder(home: Path) -> None:
    manifest = cluster(home)
    assert wrong(manifest) == {}
    assert list(home.iterdir()) == []
    port = Stack.of(manifest).plan.processes[0].section.port
    with socket.create_server(("127.0.0.1", port)):
        finding = found(manifest)["data server"]
    assert finding.level is Level.wrong
    assert f"port {port} is taken by {sys.executable}"[:40] in finding.text
    assert finding.mend == "end that, or set cluster.services.data.port to a free port"


def test_a_broker_that_was_killed_or_forgets_is_told(home: Path) -> None:
    broker = EmbeddedBroker(StackFolder(home))
    broker.start()
    assert broker.pid is not None
    try:
        wait_until(broker.answers)
        manifest = cluster(home, f"cluster.broker={broker.url}")
        assert found(manifest)["broker"].level is Level.ok
        from yuan_stack.broker import client

        with client(broker.url) as connection:
            connection.config_set("maxmemory-policy", "allkeys-lru")
        assert found(manifest)["broker"].mend == "set maxmemory-policy noeviction"
    finally:
        os.kill(broker.pid, signal.SIGKILL)
    wait_until(lambda: broker.exit_code() is not None)
    finding = found(manifest)["broker"]
    assert (finding.level, finding.mend) == (Level.wrong, "see cluster.broker")
    assert "does not answer" in finding.text
    assert broker.url.split(":")[2].partition("@")[0] not in finding.text  # the password


def test_registries_of_other_schemas_and_damaged_ones_are_told_and_left_alone(home: Path) -> None:
    manifest = cluster(home)
    file = home / "registry.db"
    Registry.open(f"sqlite:///{file}").close()
    assert found(manifest)["registry"].level is Level.ok

    def set_version(version: str) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (version,))

    set_version("9999")
    newer = found(manifest)["registry"]
    assert (newer.level, newer.mend) == (Level.wrong, "update Yuan Stack, or use another home (YUAN_HOME)")
    set_version("0001")
    older = found(manifest)["registry"]
    assert (older.level, "schema 0001; the next command" in older.text) == (Level.note, True)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(file.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    file.write_bytes(content)
    assert found(manifest)["registry"].level is Level.wrong
    file.write_text("no database at all " * 100)
    assert "file is not a database" in wrong(manifest)["registry"]


def test_a_registry_server_that_does_not_answer_is_told_without_its_password(home: Path) -> None:
    url = f"postgresql+psycopg://yuan:secret@127.0.0.1:{free_ports(1)[0]}/yuan"
    finding = found(cluster(home, f"cluster.registry={url}"))["registry"]
    assert (finding.level, finding.mend) == (Level.wrong, "see cluster.registry")
    assert "secret" not in finding.text


@pytest.fixture
def worker_process() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_workers_that_are_dead_or_paused_or_of_another_version_are_told(
    home: Path, worker_process: "subprocess.Popen[bytes]"
) -> None:
    manifest = cluster(home, "cluster.lease_seconds=5")
    registry = Registry.open(f"sqlite:///{home / 'registry.db'}")
    name = f"data-{socket.gethostname()[:60]}-{worker_process.pid}-abcdef"
    register_worker(registry, WorkerIdentity(name, "data", socket.gethostname(), VERSION))
    assert found(manifest)["workers"].text == "1 alive"
    worker_process.send_signal(signal.SIGSTOP)
    wait_until(lambda: ") T " in Path(f"/proc/{worker_process.pid}/stat").read_text())
    assert wrong(manifest) == {"workers": f"{name} is stopped by a signal"}
    worker_process.kill()
    worker_process.wait()
    assert "its process is no more" in wrong(manifest)["workers"]
    register_worker(registry, WorkerIdentity("data-elsewhere-1-abcdef", "data", "elsewhere", "9.9"))
    told = wrong(manifest)
    assert "silent for 2 s" in told["workers"]
    assert told["versions"] == f"worker data-elsewhere-1-abcdef runs 9.9, this is {VERSION}"
    registry.close()


def test_jobs_that_no_worker_takes_are_told(home: Path) -> None:
    registry = Registry.open(f"sqlite:///{home / 'registry.db'}")
    claim = registry.claim(NewJob("tokenizer", "demo", "i" * 64, {}, {}, {}))
    registry.close()
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("UPDATE jobs SET state = 'QUEUED', queue = 'data' WHERE id = ?", (claim.job_id,))
    text = "none of the data service is there and jobs wait for one: 1"
    not_started = found(cluster(home))["workers"]
    assert (not_started.level, not_started.text) == (Level.note, text)
    elsewhere = cluster(home, f"cluster.broker=redis://127.0.0.1:{free_ports(1)[0]}/0")
    assert wrong(elsewhere)["workers"] == text


@contextmanager
def serving(manifest: ClusterManifest) -> Iterator[None]:
    """Runs the data server of a cluster in a thread."""
    loop = asyncio.new_event_loop()
    stop, up = asyncio.Event(), threading.Event()

    async def serve() -> None:
        async with server_of("data", manifest.cluster, [], drain_seconds=0.1):
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert up.wait(60)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def test_a_server_whose_clock_is_wrong_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_token_file(home / "token")
    manifest = cluster(home, f"cluster.broker=redis://127.0.0.1:{free_ports(1)[0]}/0")
    with serving(manifest):
        assert wrong(manifest).keys() == {"broker"}
        monkeypatch.setattr("yuan_rpc.interceptor.time", SimpleNamespace(time=lambda: time.time() - 3600))
        told = wrong(manifest)
        assert told.keys() == {"broker", "clock"}
        assert re.fullmatch(r"the data server is 3,(59\d|60\d) s behind this machine", told["clock"])
    assert "data server" in wrong(manifest)


def test_a_stack_that_runs_is_well_until_one_of_its_servers_hangs_or_it_is_killed(stack: ToyStack) -> None:
    pids = stack.up()
    manifest = load_cluster(stack.folder / "stack.yaml")
    seen = found(manifest)
    assert {check: finding.text for check, finding in seen.items() if finding.level is not Level.ok} == {}
    assert seen["clock"].text.partition("compared with ")[2].split(", ")[0] == "the broker"
    os.kill(pids["data-server"], signal.SIGSTOP)
    assert "data server" in wrong(manifest)
    os.kill(pids["data-server"], signal.SIGCONT)
    os.kill(stack.state()["pid"], signal.SIGKILL)
    wait_until(lambda: "stack" in wrong(manifest))
    assert "a stack was killed" in wrong(manifest)["stack"]


def test_a_server_of_another_stack_is_in_the_way_and_one_that_knows_our_token_is_ours(
    home: Path, tmp_path: Path
) -> None:
    ensure_token_file(home / "token")
    manifest = cluster(home)
    other = load_cluster(
        None,
        [
            f"cluster.home={tmp_path / 'other'}",
            f"cluster.services.data.port={Stack.of(manifest).plan.processes[0].section.port}",
        ],
    )
    ensure_token_file(tmp_path / "other" / "token")
    for who, level in ((manifest, Level.ok), (other, Level.wrong)):
        with serving(who):
            finding = found(manifest)["data server"]
            assert finding.level is level, finding
    assert "is taken by" in finding.text
