"""Which processes a cluster manifest means, as plain values: nothing is started or looked at here.

A process carries the settings that it depends on: two manifests that agree in them need no restart of it.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from yuan_jobs.broker import EMBEDDED
from yuan_manifest import ClusterManifest
from yuan_manifest.schema import ServiceSection, as_plain
from yuan_manifest.values import is_list, is_section, shown
from yuan_rpc import join_address

CALLS: Mapping[str, tuple[str, ...]] = {
    "trainer": ("data",),
    "converter": ("inference",),
    "evaluator": ("inference",),
    "gateway": ("data", "trainer", "converter", "evaluator", "inference"),
}
"""Which services a service calls: where those are is among its settings."""

_SQLITE = "sqlite:///"

# Of a worker's own section nothing matters to it: the number of workers is how many there are of it.
_NOT_OF_SERVERS = ("workers",)

# Whose values can hold a password.
_SHOWN = ("cluster.services.", "cluster.lease_seconds", "topology.")


class Role(StrEnum):
    """What a process of a service does: answer calls, or take jobs from the queue."""

    server = "server"
    worker = "worker"


@dataclass(frozen=True)
class ProcessPlan:
    """One process of a service.

    Attributes:
        service: its key under `cluster.services`.
        role: what it does.
        number: of a worker, from 1; 0 for the server.
        section: the service's section.
        settings: every value that the process depends on, by key path.
    """

    service: str
    role: Role
    number: int
    section: ServiceSection
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`data-server`, `data-worker-1`."""
        return f"{self.service}-{self.role}" + (f"-{self.number}" if self.number else "")

    @property
    def bind(self) -> str:
        """The address that a server listens on."""
        return self.section.bind or self.section.host

    @property
    def address(self) -> str:
        """Where a server is reached; empty for a worker."""
        return join_address(self.section.host, self.section.port) if self.role is Role.server else ""

    @property
    def ports(self) -> frozenset[int]:
        """The ports that it listens on."""
        if self.role is Role.worker:
            return frozenset()
        return frozenset({self.section.port, *([self.section.metrics_port] if self.section.metrics_port else [])})

    def command(self, cluster_file: Path) -> list[str]:
        """Returns what is run."""
        return [sys.executable, "-m", f"yuan_{self.service}", self.role.value, "-f", str(cluster_file)]


@dataclass(frozen=True)
class StackPlan:
    """What a cluster manifest means on this machine.

    Attributes:
        embedded_broker: whether the stack has a Valkey of its own.
        processes: servers and workers, in the manifest's order.
    """

    embedded_broker: bool
    processes: tuple[ProcessPlan, ...]

    def find(self, name: str) -> ProcessPlan | None:
        """Returns the process of that name."""
        return next((process for process in self.processes if process.name == name), None)


class Action(StrEnum):
    """What another manifest means for a process."""

    start = "start"
    restart = "restart"
    stop = "stop"


@dataclass(frozen=True)
class Change:
    """A process that another manifest starts, restarts or stops.

    Attributes:
        name: of the process.
        action: what happens to it.
        reasons: `key: old -> new` of every setting that differs; only the key where a value may be secret.
    """

    name: str
    action: Action
    reasons: tuple[str, ...] = field(default=())


def plan_of(manifest: ClusterManifest) -> StackPlan:
    """Returns the processes that a manifest (of `with_absolute_paths`) means."""
    services = {
        entry.name: section
        for entry in dataclasses.fields(manifest.cluster.services)
        if (section := getattr(manifest.cluster.services, entry.name)) is not None
    }
    processes: list[ProcessPlan] = []
    for service, section in services.items():
        settings = _settings(manifest, service, Role.server)
        processes.append(ProcessPlan(service, Role.server, 0, section, settings))
        settings = _settings(manifest, service, Role.worker)
        processes.extend(
            ProcessPlan(service, Role.worker, number, section, settings) for number in range(1, section.workers + 1)
        )
    return StackPlan(manifest.cluster.broker == EMBEDDED, tuple(processes))


def changes(
    running: Mapping[str, Mapping[str, Any]], plan: StackPlan, *, embedded_broker: bool = False
) -> list[Change]:
    """Returns what has to happen so that what runs becomes what is planned, in the plan's order.

    Args:
        running: settings by name of the process.
        plan: what shall run.
        embedded_broker: whether a Valkey of the stack's own runs.
    """
    found: list[Change] = []
    if plan.embedded_broker != embedded_broker:
        found.append(Change("broker", Action.start if plan.embedded_broker else Action.stop))
    for process in plan.processes:
        before = running.get(process.name)
        if before is None:
            found.append(Change(process.name, Action.start))
        elif reasons := tuple(_differences(before, process.settings)):
            found.append(Change(process.name, Action.restart, reasons))
    found.extend(Change(name, Action.stop) for name in running if plan.find(name) is None)
    return found


def with_absolute_paths(manifest: ClusterManifest) -> ClusterManifest:
    """Returns a copy that means the same from any working directory and for any value of HOME."""
    cluster, security = manifest.cluster, manifest.cluster.security
    tls = security.tls
    if tls is not None:
        files = {entry.name: getattr(tls, entry.name) for entry in dataclasses.fields(tls)}
        tls = replace(tls, **{name: _absolute(path) for name, path in files.items() if isinstance(path, str)})
    tenants = {
        name: replace(tenant, token_file=_absolute(tenant.token_file)) for name, tenant in security.tenants.items()
    }
    registry = cluster.registry
    if registry.startswith(_SQLITE):
        registry = _SQLITE + _absolute(registry.removeprefix(_SQLITE))
    cluster = replace(
        cluster,
        home=_absolute(cluster.home),
        registry=registry,
        broker_password_file=_absolute(cluster.broker_password_file) if cluster.broker_password_file else None,
        store=cluster.store if "://" in cluster.store else _absolute(cluster.store),
        security=replace(
            security,
            token_file=_absolute(security.token_file),
            tokens=_absolute(security.tokens),
            tls=tls,
            tenants=tenants,
            audit=replace(security.audit, folder=_absolute(security.audit.folder)),
        ),
    )
    return replace(manifest, cluster=cluster)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _settings(manifest: ClusterManifest, service: str, role: Role) -> dict[str, Any]:
    plain = as_plain(manifest)
    cluster, services = plain["cluster"], plain["cluster"].pop("services")
    seen: dict[str, Any] = {
        called: {"host": section["host"], "port": section["port"]}
        for called in CALLS.get(service, ())
        if (section := services[called]) is not None
    }
    if role is Role.server:
        seen[service] = {key: value for key, value in services[service].items() if key not in _NOT_OF_SERVERS}
        topology = plain["topology"]
    else:
        # A job brings how it is divided; how many devices there are is the machine's.
        topology = {"nodes": plain["topology"]["nodes"]}
    return dict(_flat({"cluster": {**cluster, "services": seen}, "topology": topology}))


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{above}.{key}" if above else key
        if is_section(value):
            yield from _flat(value, path)
        else:
            yield path, value


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if old != new:
            yield f"{key}: {_short(old)} -> {_short(new)}" if key.startswith(_SHOWN) else key


def _short(value: object) -> str:
    return str(value) if isinstance(value, str) or is_list(value) else shown(value)
