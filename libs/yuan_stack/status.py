"""`yuan status`: what a supervisor tells, and what servers and broker answer now."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from yuan_events import InputError
from yuan_jobs.broker import EMBEDDED, server_url
from yuan_jobs.queries import jobs_by_state, read_if_there
from yuan_jobs.registry import Registry
from yuan_manifest import ClusterManifest
from yuan_rpc import RpcFailed, health_of
from yuan_stack.broker import client
from yuan_stack.folder import StackFolder, holder_of
from yuan_stack.models import ModelStatus, models_of
from yuan_stack.processes import ProcessPlan, Role, plan_of, with_absolute_paths
from yuan_stack.state import Phase, ProcessRecord, ProcessState
from yuan_stack.up import state_of

HEALTH_SECONDS = 2.0


class Health(StrEnum):
    """What a server answers."""

    serving = "serving"
    not_serving = "not serving"
    silent = "no answer"


@dataclass(frozen=True)
class ProcessStatus:
    """One process, or a server that somebody else runs.

    Attributes:
        name: `data-server`.
        service: `data`.
        role: server or worker.
        state: how its supervisor sees it; None for one that no supervisor here has started.
        health: what a server answers now; None for a worker.
        address: where a server is reached; empty for a worker.
        pid: None while there is no process here.
        since: when it was started or has ended, in seconds since 1970; None if it is not known here.
        restarts: how often it ended unasked.
        last_line: of its log, from before it last did so.
    """

    name: str
    service: str
    role: Role
    state: ProcessState | None
    health: Health | None
    address: str
    pid: int | None = None
    since: float | None = None
    restarts: int = 0
    last_line: str = ""

    @property
    def is_up(self) -> bool:
        """Whether it does what it is for."""
        state_is_right = self.state in {ProcessState.up, None}
        return state_is_right and self.health in {Health.serving, None}


@dataclass(frozen=True)
class BrokerStatus:
    """The broker.

    Attributes:
        address: host and port; empty while there is none.
        embedded: whether it is the stack's own Valkey.
        answers: whether it can be used.
        pid: of an embedded one.
        restarts: how often an embedded one ended unasked.
        queues: messages that wait in it, by service. The jobs themselves are in the registry.
    """

    address: str
    embedded: bool
    answers: bool
    pid: int | None
    restarts: int
    queues: dict[str, int]


@dataclass(frozen=True)
class StackStatus:
    """A stack.

    Attributes:
        home: whose it is.
        phase: what a supervisor here is at; None: there is none.
        pid: of the supervisor.
        broker: the broker.
        processes: those of the supervisor, and servers of the manifest that it did not start.
        jobs: how many the registry has, by state.
        models: those of the inference server.
    """

    home: str
    phase: Phase | None
    pid: int | None
    broker: BrokerStatus
    processes: tuple[ProcessStatus, ...]
    jobs: dict[str, int]
    models: tuple[ModelStatus, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether everything that the manifest names does what it is for."""
        # Servers that somebody else runs have a broker that only they know.
        elsewhere = self.broker.embedded and self.phase is None
        return (self.broker.answers or elsewhere) and all(process.is_up for process in self.processes)

    @property
    def is_down(self) -> bool:
        """Whether there is nothing at all."""
        servers = [process for process in self.processes if process.role is Role.server]
        return self.pid is None and all(server.health is Health.silent for server in servers)

    def to_plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        plain: dict[str, Any] = {"up": self.is_up, **asdict(self)}
        for row in plain["processes"]:
            row["since"] = None if row["since"] is None else datetime.fromtimestamp(row["since"], UTC).isoformat()
        return plain


def status_of(manifest: ClusterManifest) -> StackStatus:
    """Looks at the stack of a cluster: its supervisor here, if there is one, and all servers over gRPC.

    Raises:
        InputError: if the supervisor is of another version, or a TLS file is wrong.
    """
    absolute = with_absolute_paths(manifest)
    folder = StackFolder(Path(absolute.cluster.home))
    holder = holder_of(folder)
    state = state_of(folder, holder)
    records = {} if state is None else {record.name: record for record in state.processes}
    plan = plan_of(absolute)
    # What runs under another manifest than this one is shown too.
    planned = {process.name: process for process in plan.processes if process.role is Role.server or records}
    with ThreadPoolExecutor(max_workers=8) as executor:
        asked = {name: executor.submit(_health, absolute, process) for name, process in planned.items()}
        health = {name: answer.result() for name, answer in asked.items()}
    names = dict.fromkeys((*records, *planned))
    return StackStatus(
        home=absolute.cluster.home,
        phase=None if state is None else state.phase,
        pid=None if holder is None else holder.pid,
        broker=_broker(absolute, folder, None if state is None else state.broker),
        processes=tuple(
            _of_supervisor(records[name], health.get(name))
            if name in records
            else _of_others(planned[name], health[name])
            for name in names
        ),
        jobs=_jobs(absolute.cluster.registry),
        models=models_of(absolute) if health.get("inference-server") in {Health.serving, Health.not_serving} else (),
    )


def _of_supervisor(record: ProcessRecord, health: Health | None) -> ProcessStatus:
    return ProcessStatus(
        name=record.name,
        service=record.service,
        role=record.role,
        state=record.state,
        health=health,
        address=record.address,
        pid=record.pid,
        since=record.since,
        restarts=record.restarts,
        last_line=record.last_line,
    )


def _of_others(plan: ProcessPlan, health: Health | None) -> ProcessStatus:
    """Returns the status of a process of the manifest that no supervisor here has started."""
    state = ProcessState.stopped if plan.role is Role.worker else None
    return ProcessStatus(plan.name, plan.service, plan.role, state, health, plan.address)


def _health(manifest: ClusterManifest, process: ProcessPlan) -> Health | None:
    if process.role is Role.worker:
        return None
    cluster = manifest.cluster
    try:
        with health_of(process.service, cluster) as connection:
            return Health.serving if connection.is_serving(timeout=HEALTH_SECONDS) else Health.not_serving
    except RpcFailed:
        return Health.silent
    except InputError:
        # Before the first `yuan up` there is no token file; nobody can answer then either.
        if not Path(cluster.security.token_file).exists():
            return Health.silent
        raise


def _broker(manifest: ClusterManifest, folder: StackFolder, record: ProcessRecord | None) -> BrokerStatus:
    from yuan_jobs.celery_app import queue_name  # noqa: PLC0415 - loads Celery
    from yuan_jobs.job_service import WITHOUT_QUEUE  # noqa: PLC0415 - as above

    url = manifest.cluster.broker
    embedded = url == EMBEDDED
    if embedded:
        url = ""
        with suppress(OSError):
            url = folder.broker_url.read_text(encoding="ascii").strip()
    else:
        url = server_url(manifest.cluster)
    queues: dict[str, int] = {}
    answers = False
    if url:
        with suppress(RedisError, OSError, ValueError), client(url) as connection:
            answers = bool(connection.ping())
            for service in dict.fromkeys(process.service for process in plan_of(manifest).processes):
                if service not in WITHOUT_QUEUE:
                    queues[service] = int(connection.llen(queue_name(service)))
    return BrokerStatus(
        address=url.rpartition("@")[2].rpartition("//")[2].partition("/")[0],
        embedded=embedded,
        answers=answers,
        pid=None if record is None else record.pid,
        restarts=0 if record is None else record.restarts,
        queues=queues,
    )


def _jobs(url: str) -> dict[str, int]:
    """Returns how many jobs there are; none where there is no registry that can be read."""

    def count(registry: Registry) -> dict[str, int]:
        return {state.value: count for state, count in jobs_by_state(registry).items() if count}

    return read_if_there(url, count, {})
