"""Which processes a manifest means, and which of them another manifest restarts."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_jobs.broker import broker_url_file
from yuan_manifest import ClusterManifest, load_cluster, to_yaml
from yuan_rpc import security_of
from yuan_stack.folder import StackFolder, StackLock, holder_of, last_line, open_log
from yuan_stack.narration import Narrator
from yuan_stack.processes import Action, Role, changes, plan_of, with_absolute_paths
from yuan_stack.state import Phase, ProcessRecord, ProcessState, StackState


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    monkeypatch.delenv("YUAN_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def cluster(*items: str) -> ClusterManifest:
    return with_absolute_paths(load_cluster(overrides=[f"cluster.{item}" if "=" in item else item for item in items]))


def restarted(*items: str, topology: str = "") -> list[str]:
    before = {process.name: process.settings for process in plan_of(cluster()).processes}
    overrides = [f"cluster.{item}" for item in items] + ([f"topology.{topology}"] if topology else [])
    plan = plan_of(with_absolute_paths(load_cluster(overrides=overrides)))
    return [change.name for change in changes(before, plan, embedded_broker=True) if change.action is Action.restart]


SERVERS = [f"{name}-server" for name in ("data", "trainer", "converter", "evaluator", "inference", "gateway")]
WORKERS = ["data-worker-1", "trainer-worker-1", "converter-worker-1", "evaluator-worker-1"]


def test_the_default_stack_is_six_servers_and_four_workers_and_a_broker() -> None:
    plan = plan_of(cluster())
    assert sorted(process.name for process in plan.processes) == sorted([*SERVERS, *WORKERS])
    assert plan.embedded_broker


def test_a_service_that_is_null_has_no_process_and_more_workers_have_numbers() -> None:
    names = [process.name for process in plan_of(cluster("services.data=null", "services.trainer.workers=2")).processes]
    assert not [name for name in names if name.startswith("data")]
    assert {"trainer-worker-1", "trainer-worker-2"} <= set(names)


def test_a_process_is_python_minus_m_of_its_service() -> None:
    worker = plan_of(cluster()).find("data-worker-1")
    assert worker is not None
    assert worker.command(Path("/x.yaml"))[1:] == ["-m", "yuan_data", "worker", "-f", "/x.yaml"]
    assert (worker.role, worker.address, worker.ports) == (Role.worker, "", frozenset())


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            "services.inference.port=7999",
            [
                "converter-server",
                "converter-worker-1",
                "evaluator-server",
                "evaluator-worker-1",
                "inference-server",
                "gateway-server",
            ],
        ),
        ("services.data.port=7999", ["data-server", "trainer-server", "trainer-worker-1", "gateway-server"]),
        ("services.converter.port=7999", ["converter-server", "gateway-server"]),
        ("services.data.bind=0.0.0.0", ["data-server"]),
        ("services.data.metrics_port=7999", ["data-server"]),
        ("services.data.workers=3", []),
        ("lease_seconds=60", [*SERVERS, *WORKERS]),
        ("security.token_file=t", [*SERVERS, *WORKERS]),
        ("broker='redis://h:1/0'", [*SERVERS, *WORKERS]),
    ],
)
def test_a_change_restarts_what_depends_on_it(item: str, expected: list[str]) -> None:
    assert sorted(restarted(item)) == sorted(expected)


def test_how_jobs_are_divided_concerns_no_worker_and_the_devices_concern_all() -> None:
    assert sorted(restarted(topology="parallel.pipeline=2")) == sorted(SERVERS)
    assert sorted(restarted(topology="nodes.devices=4")) == sorted([*SERVERS, *WORKERS])


def test_reasons_show_values_but_none_that_may_hold_a_password() -> None:
    before = {process.name: process.settings for process in plan_of(cluster()).processes}
    items = ["broker='redis://:secret@h:1/0'", "registry='postgresql://u:secret@h/db'", "lease_seconds=60"]
    found = changes(before, plan_of(cluster(*items)), embedded_broker=True)
    reasons = next(change.reasons for change in found if change.name == "data-server")
    assert set(reasons) == {"cluster.registry", "cluster.broker", "cluster.lease_seconds: 30 -> 60"}
    assert ("broker", Action.stop) in [(change.name, change.action) for change in found]


def test_the_same_manifest_changes_nothing_also_after_it_was_written_and_read() -> None:
    manifest = cluster("home=here", "security.tls={certificate: a, key: b, authority: c}")
    Path("written.yaml").write_text(to_yaml(manifest))
    before = {process.name: process.settings for process in plan_of(manifest).processes}
    assert changes(before, plan_of(load_cluster("written.yaml")), embedded_broker=True) == []


def test_relative_paths_and_tildes_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = cluster("home=~/h", "store=here", "security.tls={certificate: a, key: ~/b, authority: c}").cluster
    assert (made.home, made.store) == (f"{tmp_path}/h", f"{tmp_path}/here")
    assert made.registry == f"sqlite:///{tmp_path}/h/registry.db"
    assert made.security.token_file == f"{tmp_path}/h/token"
    tls = security_of(made.security).tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (tmp_path / "a", tmp_path / "b")
    assert cluster("store='s3://bucket/x'").cluster.store == "s3://bucket/x"


def test_jobs_look_for_the_brokers_url_where_the_stack_writes_it() -> None:
    made = cluster("home=here").cluster
    assert broker_url_file(made) == StackFolder(Path(made.home)).broker_url


# --- the folder --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    made = StackFolder(tmp_path)
    made.make()
    return made


def test_one_lock_at_a_time_and_its_file_goes_with_it(folder: StackFolder) -> None:
    assert holder_of(folder) is None
    lock = StackLock.acquire(folder)
    assert lock is not None
    assert StackLock.acquire(folder) is None
    holder = holder_of(folder)
    assert holder is not None
    assert holder.pid is None
    lock.release()
    assert holder_of(folder) is None
    assert not folder.lock.exists()


def test_the_last_line_is_the_last_that_says_something_since_the_start(folder: StackFolder) -> None:
    path = folder.log("x")
    path.write_text("of an earlier run\n")
    descriptor, start = open_log(path)
    assert last_line(path, start) == ""
    with os.fdopen(descriptor, "wb") as log:
        log.write(b"first\n  second \xff " + b"y" * 400 + b"\n\n   \n")
    line = last_line(path, start)
    assert line.startswith("second \ufffd yy")
    assert len(line) == 300
    assert last_line(folder.log("missing")) == ""


# --- the state and what is said of it ----------------------------------------------------------------------------

RECORDS = st.builds(
    ProcessRecord,
    name=st.text(),
    service=st.text(),
    role=st.sampled_from(Role),
    state=st.sampled_from(ProcessState),
    pid=st.none() | st.integers(),
    since=st.floats(allow_nan=False),
    restarts=st.integers(),
    last_line=st.text(),
    settings=st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())),
)


@given(
    st.builds(
        StackState,
        version=st.text(),
        pid=st.integers(),
        phase=st.sampled_from(Phase),
        manifest=st.text(),
        broker=st.none() | RECORDS,
        processes=st.lists(RECORDS).map(tuple),
    )
)
def test_a_state_is_what_it_was_after_writing_and_reading(state: StackState) -> None:
    assert StackState.from_json(state.to_json()) == state


def test_a_narrator_says_what_is_new_and_no_more() -> None:
    def state(phase: Phase, *records: ProcessRecord) -> StackState:
        return StackState("1", 1, phase, "", None, records)

    def record(state: ProcessState, **more: object) -> ProcessRecord:
        return ProcessRecord("a-worker-1", "a", Role.worker, state, **{"pid": 7, **more})  # type: ignore[arg-type]

    said: list[str] = []
    narrator = Narrator(said.append)
    ended = {"restarts": 1, "failures": 1, "ending": "exit code 1", "last_line": "why", "retry_seconds": 1.0}
    for told in (
        state(Phase.running, record(ProcessState.starting)),
        state(Phase.running, record(ProcessState.up)),
        state(Phase.running, record(ProcessState.up)),
        state(Phase.running, record(ProcessState.waiting, **{**ended, "pid": None})),
        state(Phase.running, record(ProcessState.starting, **{**ended, "pid": 8})),
        state(Phase.running, record(ProcessState.up, **{**ended, "pid": 8})),
        state(Phase.stopping, record(ProcessState.stopping, **{**ended, "pid": 8})),
        state(Phase.stopping, record(ProcessState.stopped, **{**ended, "pid": None})),
    ):
        narrator.tell(told)
    assert said == [
        "a-worker-1  up (pid 7)",
        "a-worker-1  ended (exit code 1): why; starts again in 1 s",
        "a-worker-1  up (pid 8)",
        "stopping; a-worker-1 may finish a step first",
        "a-worker-1  stopped",
    ]
