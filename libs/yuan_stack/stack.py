"""What a cluster manifest means on this machine, and whether it can be: all that is known before anything starts."""

import importlib.util
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from redis.exceptions import RedisError

from yuan_events import InputError, WorkFailed
from yuan_jobs.broker import server_url
from yuan_manifest import ClusterManifest, to_yaml
from yuan_rpc import VERSION, check_port, ensure_token_file, security_of
from yuan_rpc.security import channel_credentials, server_credentials
from yuan_stack.broker import client, valkey_server
from yuan_stack.folder import Holder, StackFolder, digest, holder_of, write_private
from yuan_stack.processes import Change, ProcessPlan, Role, StackPlan, changes, plan_of, with_absolute_paths
from yuan_stack.state import StackState


@dataclass(frozen=True)
class Stack:
    """A stack as its manifest has it.

    Attributes:
        manifest: the cluster, with absolute paths.
        plan: the processes that it means.
        folder: of its home.
    """

    manifest: ClusterManifest
    plan: StackPlan
    folder: StackFolder

    @classmethod
    def of(cls, manifest: ClusterManifest) -> "Stack":
        """Returns the stack of a cluster."""
        absolute = with_absolute_paths(manifest)
        return cls(absolute, plan_of(absolute), StackFolder(Path(absolute.cluster.home)))

    def running_state(self) -> StackState | None:
        """Returns what the supervisor that runs has told."""
        return state_of(self.folder, holder_of(self.folder))

    def changes(self, state: StackState | None) -> list[Change]:
        """Returns what has to happen to what runs; None: nothing does."""
        if state is None:
            return changes({}, self.plan)
        return changes(state.settings, self.plan, embedded_broker=state.broker is not None)

    def starting(self, found: Iterable[Change]) -> list[ProcessPlan]:
        """Returns the processes that changes start."""
        return [process for change in found if (process := self.plan.find(change.name)) is not None]

    def check_installed(self) -> None:
        """Checks that the services, and the broker if it is ours, are on this machine.

        Raises:
            InputError: naming the first that is not.
        """
        for service in dict.fromkeys(process.service for process in self.plan.processes):
            if importlib.util.find_spec(f"yuan_{service}") is None:
                raise InputError(
                    f"yuan_{service} is not installed here; `make install`, or pip install 'yuan-stack[{service}]', "
                    f"or set cluster.services.{service} to null"
                )
        if self.plan.embedded_broker:
            valkey_server()

    def check(self, starting: Iterable[ProcessPlan], own_ports: Set[int] = frozenset()) -> None:
        """Checks what processes need that are to be started.

        Args:
            starting: those processes.
            own_ports: ports that processes of the stack hold now, which may end or stay.

        Raises:
            InputError: if a TLS file is missing or wrong, a port is taken, an address is not protected, or the broker
                does not answer.
        """
        security = security_of(self.manifest.cluster.security)
        if security.tls is not None:
            # What runs must not be restarted into files that no server can open.
            server_credentials(security.tls)
            channel_credentials(security.tls)
        for process in starting:
            if process.role is Role.server:
                security.check_server(process.service, process.bind)
                security.check_client(process.service, process.section.host)
                for host, port, name in _ports(process):
                    if port not in own_ports:
                        key = f"cluster.services.{process.service}"
                        bind_key = f"{key}.{'bind' if process.section.bind else 'host'}"
                        check_port(host, port, service=process.service, port_key=f"{key}.{name}", bind_key=bind_key)
        if not self.plan.embedded_broker:
            _check_broker(server_url(self.manifest.cluster))

    def write(self) -> str:
        """Writes the manifest that the processes run from, and the token file if there is none; returns its digest.

        Raises:
            InputError: if the token file is refused.
            WorkFailed: if the manifest cannot be written.
        """
        security = self.manifest.cluster.security
        for file in (security.token_file, *(tenant.token_file for tenant in security.tenants.values())):
            ensure_token_file(Path(file))
        text = to_yaml(self.manifest)
        try:
            write_private(self.folder.cluster, text)
        except OSError as error:
            raise WorkFailed(f"{self.folder.cluster}: {(error.strerror or str(error)).lower()}") from None
        return digest(text)


def state_of(folder: StackFolder, holder: Holder | None) -> StackState | None:
    """Returns what the supervisor that holds the lock has told; None if it has told nothing yet.

    Raises:
        InputError: if it is of another version than this program.
    """
    if holder is None or holder.pid is None:
        return None
    state = folder.read_state()
    if state is None or state.pid != holder.pid:
        return None
    if state.version != VERSION:
        raise InputError(
            f"the stack of {folder.home} runs version {state.version} and this is version {VERSION}; "
            "restart it with: yuan down && yuan up"
        )
    return state


def _ports(process: ProcessPlan) -> Iterator[tuple[str, int, str]]:
    yield process.bind, process.section.port, "port"
    if process.section.metrics_port:
        yield process.section.metrics_bind, process.section.metrics_port, "metrics_port"


def _check_broker(url: str) -> None:
    try:
        with client(url) as connection:
            connection.ping()
    except (RedisError, OSError, ValueError) as error:
        place = url.rpartition("@")[2].removeprefix("redis://").removeprefix("rediss://")
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"the broker at {place} does not answer ({reason}); see cluster.broker") from None


def own_ports(state: StackState | None) -> frozenset[int]:
    """Returns the ports that servers of a running stack hold."""
    if state is None:
        return frozenset()
    alive = [record for record in state.processes if record.pid is not None and record.role is Role.server]
    keys = [f"cluster.services.{record.service}" for record in alive]
    pairs = zip(alive, keys, strict=True)
    found = [record.settings.get(f"{key}.{name}") for record, key in pairs for name in ("port", "metrics_port")]
    return frozenset(port for port in found if port)
