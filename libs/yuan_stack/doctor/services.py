"""What runs: broker, registry, servers and their ports, workers, and whether all their clocks agree.

A stack that is not started is not ill: its ports are looked at then, and what it would start.
"""

import http.client
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from yuan_events import InputError, YuanError
from yuan_jobs.broker import EMBEDDED, server_url
from yuan_jobs.claims import workers as known_workers
from yuan_jobs.database import look_at
from yuan_jobs.migrations import HEAD
from yuan_jobs.queries import lease_holder, queued_by_service
from yuan_jobs.reconciler import LEASE
from yuan_jobs.records import WorkerRecord
from yuan_jobs.registry import Registry
from yuan_rpc import HTTP_SERVICES, VERSION, HttpServer, RpcFailed, connect, health_of, security_of
from yuan_rpc.addresses import is_loopback, join_address
from yuan_rpc.http_server import client_context
from yuan_rpc.security import bearer
from yuan_stack.broker import client, valkey_server
from yuan_stack.doctor.findings import Finding, note, ok, refused, wrong
from yuan_stack.doctor.places import write_and_remove
from yuan_stack.folder import holder_of, last_line
from yuan_stack.processes import ProcessPlan, Role
from yuan_stack.stack import Stack, own_ports
from yuan_stack.state import ProcessState, StackState

LARGEST_SKEW_S = 5.0
"""Clocks further apart make jobs wait for their next try, and lists out of order, by as much."""

_ANSWER_S = 3.0
_RESTART = "see its log, then: yuan down && yuan up"


@dataclass
class Observed:
    """What is seen on the way, for the checks at the end.

    Attributes:
        state: what a supervisor here tells; None: there is none.
        elsewhere: somebody else runs the cluster's services.
        ahead: seconds by which other clocks are ahead of ours, by what they are.
        others: versions that are not ours, by what they are of.
    """

    state: StackState | None = None
    elsewhere: bool = False
    ahead: dict[str, float] = field(default_factory=dict[str, float])
    others: dict[str, str] = field(default_factory=dict[str, str])


def look_at_what_runs(stack: Stack) -> Iterator[Finding]:
    """Looks at a stack, one part after another."""
    seen = Observed(elsewhere=runs_elsewhere(stack))
    yield from _supervisor(stack, seen)
    yield _broker(stack, seen)
    registry, finding = _registry(stack.manifest.cluster.registry, seen)
    yield finding
    try:
        yield from _servers(stack, seen)
        if registry is not None:
            with suppress(YuanError):  # it went away meanwhile: the next diagnosis says so
                yield from _workers(stack, registry, seen)
    finally:
        if registry is not None:
            registry.close()
    yield _versions(seen)
    yield _clock(stack, seen)


def _supervisor(stack: Stack, seen: Observed) -> Iterator[Finding]:
    try:
        holder = holder_of(stack.folder)
        seen.state = stack.running_state()
    except InputError as error:
        yield refused("stack", error)
        return
    if holder is None and stack.folder.state.exists():
        text = f"a stack was killed and has left its files in {stack.folder.path}"
        yield wrong("stack", text, "run: yuan up (which clears up), or: yuan down")
    elif seen.state is not None:
        yield ok("stack", f"{seen.state.phase} (pid {seen.state.pid})")
    elif stack.plan.embedded_broker:
        yield ok("stack", "not started; start it with: yuan up")


# --- broker and registry -------------------------------------------------------------------------------------------


def _broker(stack: Stack, seen: Observed) -> Finding:
    url = stack.manifest.cluster.broker
    mend = "see cluster.broker"
    if url == EMBEDDED:
        try:
            program = valkey_server()
        except InputError as error:
            return refused("broker", error)
        if seen.state is None:
            return ok("broker", f"not started; {program}")
        url, mend = "", "see HOME/stack/logs/broker.log; the stack starts it again by itself"
        with suppress(OSError):
            url = stack.folder.broker_url.read_text(encoding="ascii").strip()
    else:
        try:
            url = server_url(stack.manifest.cluster)
        except InputError as error:
            return refused("broker", error)
    place = url.rpartition("@")[2].rpartition("//")[2]
    try:
        with client(url) as connection:
            connection.ping()
            before = time.time()
            seconds, microseconds = connection.time()
            seen.ahead["the broker"] = float(seconds) + float(microseconds) / 1e6 - (before + time.time()) / 2
            policy = ""
            with suppress(RedisError):  # a managed Redis may not tell
                policy = str(dict[str, Any](connection.config_get("maxmemory-policy")).get("maxmemory-policy", ""))
    except (RedisError, OSError, ValueError) as error:
        words = " ".join(str(error).split()).rstrip(".")
        return wrong("broker", f"{place or 'it'} does not answer ({words})", mend)
    if policy not in {"", "noeviction"}:
        return wrong("broker", f"{place} forgets messages when its memory is full", "set maxmemory-policy noeviction")
    return ok("broker", f"{place} answers")


def _registry(url: str, seen: Observed) -> tuple[Registry | None, Finding]:
    """Looks at the registry's schema; opens it where that is this program's, since opening an older one migrates it."""
    try:
        before = time.time()
        found = look_at(url)
        if found.now is not None:
            seen.ahead["the registry's server"] = found.now - (before + time.time()) / 2
        if found.damage:
            text = f"{found.shown} is damaged: {found.damage}"
            return None, wrong("registry", text, "restore the newest backup: yuan restore FILE --force")
        if found.revision is None:
            return None, ok("registry", f"{found.shown} is not there yet; the first command makes it")
        if found.revision != HEAD:
            text = f"{found.shown} is of schema {found.revision}; the next command brings it to {HEAD}"
            return None, note("registry", text, "make a backup of it before: yuan backup FILE")
        return Registry.open(url), ok("registry", f"{found.shown} can be written, schema {HEAD}")
    except YuanError as error:
        finding = refused("registry", error)
        return None, finding if finding.mend else wrong("registry", finding.text, "see cluster.registry")


# --- servers -------------------------------------------------------------------------------------------------------


def _servers(stack: Stack, seen: Observed) -> list[Finding]:
    servers = [process for process in stack.plan.processes if process.role is Role.server]
    with ThreadPoolExecutor(max_workers=8) as executor:
        asked = [executor.submit(_server, stack, process, seen) for process in servers]
        return [answer.result() for answer in asked]


def _server(stack: Stack, process: ProcessPlan, seen: Observed) -> Finding:
    check = f"{process.service} server"
    ours = own_ports(seen.state)
    to_start = stack.plan.embedded_broker and not process.ports <= ours
    if to_start and process.service in HTTP_SERVICES and not seen.elsewhere:
        return _not_ours(stack, process, seen)  # whose it is cannot be asked: the port tells
    try:
        with health_of(process.service, stack.manifest.cluster) as connection:
            if isinstance(connection, HttpServer):
                serving = connection.is_serving(timeout=_ANSWER_S)
                text = f"{process.address} says that it does not serve"
                return ok(check, f"{process.address} serves") if serving else wrong(check, text, _RESTART)
            facts = connection.facts(timeout=_ANSWER_S)
            connection.check_token(timeout=_ANSWER_S)
    except RpcFailed as error:
        return _not_ours(stack, process, seen) if to_start else _silent_server(check, process, seen, error)
    except InputError as error:
        return _not_ours(stack, process, seen) if to_start else refused(check, error)
    if facts.version != VERSION:
        seen.others[f"the {process.service} server"] = facts.version
    if facts.ahead_seconds is not None:
        seen.ahead[f"the {process.service} server"] = facts.ahead_seconds
    if not facts.serving:
        return wrong(check, f"{process.address} says that it does not serve", _RESTART)
    return _with_metrics(stack, process, ok(check, f"{process.address} serves and knows the token"))


def _with_metrics(stack: Stack, process: ProcessPlan, finding: Finding) -> Finding:
    """Adds to a finding of a server that is well whether its metrics can be read."""
    if (port := process.section.metrics_port) is None:
        return finding
    check, told = finding.check, finding.text
    silent = _silent_metrics(stack, process, port)
    mend = f"see cluster.services.{process.service}.metrics_bind and the server's log"
    return note(check, f"{told}; {silent}", mend) if silent else ok(check, f"{told}; metrics at port {port}")


def _silent_metrics(stack: Stack, process: ProcessPlan, port: int) -> str:
    """Returns why Prometheus would not read a server's metrics; nothing where it would."""
    security = security_of(stack.manifest.cluster.security)
    host = process.section.host
    try:
        encrypted = security.tls is not None and not is_loopback(process.section.metrics_bind)
        context = client_context(security.tls) if security.tls is not None and encrypted else None
        kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
        options: dict[str, Any] = {} if context is None else {"context": context}
        token = security.token()
        connection = kind(host, port, timeout=_ANSWER_S, **options)
        try:
            connection.request("GET", "/metrics", headers={"Authorization": bearer(token)} if token else {})
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, InputError) as error:
        return f"its metrics at {join_address(host, port)} do not answer ({' '.join(str(error).split())})"
    return "" if status == http.HTTPStatus.OK else f"its metrics at {join_address(host, port)} answer {status}"


def _not_ours(stack: Stack, process: ProcessPlan, seen: Observed) -> Finding:
    """Looks at the port of a server that this stack is to start, and that does not answer as one of ours."""
    check = f"{process.service} server"
    try:
        stack.check([process], own_ports(seen.state))
    except InputError as error:
        return refused(check, error)
    if seen.state is None:
        return ok(check, f"not started; {process.address} is free")
    return wrong(check, f"the stack that runs has none at {process.address}", "bring it up with: yuan up")


def _silent_server(check: str, process: ProcessPlan, seen: Observed, error: RpcFailed) -> Finding:
    mend = _RESTART if seen.state is not None else f"start the {process.service} server"
    finding = refused(check, error)
    return finding if finding.mend else wrong(check, finding.text, mend)


def runs_elsewhere(stack: Stack) -> bool:
    """Says whether somebody else runs this cluster's services: another host, or a container engine."""
    if not stack.plan.embedded_broker:
        return True
    with suppress(YuanError):
        if holder_of(stack.folder) is not None:
            return False
    for process in stack.plan.processes:
        if process.role is Role.server and process.service not in HTTP_SERVICES:
            with suppress(YuanError), connect(process.service, stack.manifest.cluster) as connection:
                connection.check_token(timeout=_ANSWER_S)
                return True
    return False


# --- workers -------------------------------------------------------------------------------------------------------


def _workers(stack: Stack, registry: Registry, seen: Observed) -> Iterator[Finding]:
    holder = lease_holder(registry, LEASE)
    if holder is not None and holder[1] != VERSION:
        seen.others["the reconciler"] = holder[1]
    for record in seen.state.processes if seen.state is not None else ():
        if record.role is Role.worker and record.state is not ProcessState.up:
            line = record.last_line or last_line(stack.folder.log(record.name))
            yield wrong(record.name, f"{record.state}; its last line: {line or 'none'}", _RESTART)
    known = known_workers(registry)
    silent = _silent(registry, known, stack.manifest.cluster.lease_seconds)
    for worker in known:
        if worker.version != VERSION:
            seen.others[f"worker {worker.id}"] = worker.version
        if worker.id in silent:
            yield wrong("workers", f"{worker.id} is {silent[worker.id]}", "end it; its job goes to another worker")
    runs = seen.state is not None or not stack.plan.embedded_broker
    waiting = False
    for service, count in queued_by_service(registry).items():
        if not any(worker.service == service and worker.id not in silent for worker in known):
            waiting = True
            text = f"none of the {service} service is there and jobs wait for one: {count}"
            if runs:
                yield wrong("workers", text, f"see cluster.services.{service}.workers, and start them")
            else:
                yield note("workers", text, "start the stack with: yuan up")
    if not silent and not waiting:
        yield ok("workers", f"{len(known)} alive" if known else "none is registered, and no job waits for one")


def _silent(registry: Registry, known: list[WorkerRecord], lease_seconds: int) -> dict[str, str]:
    """Returns workers that are not at work and how they stand: by their process where that is here, else by counter."""
    silent: dict[str, str] = {}
    elsewhere: dict[str, int] = {}
    for worker in known:
        state = _process_state(worker)
        if state is None:
            elsewhere[worker.id] = worker.counter
        elif state != "alive":
            silent[worker.id] = state
    # An idle worker moves its counter four times in a lease.
    deadline = time.monotonic() + lease_seconds / 2
    while elsewhere and time.monotonic() < deadline:
        time.sleep(min(0.5, lease_seconds / 8))
        now = {worker.id: worker.counter for worker in known_workers(registry)}
        elsewhere = {name: counter for name, counter in elsewhere.items() if now.get(name) == counter}
    return silent | dict.fromkeys(elsewhere, f"silent for {lease_seconds / 2:.0f} s")


def _process_state(worker: WorkerRecord) -> str | None:
    """Returns how a worker's process on this host stands; None if that cannot be seen here."""
    if worker.host != socket.gethostname() or not Path("/proc/self/stat").exists():
        return None
    pid = worker.id.rsplit("-", 2)[-2]
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "registered, and its process is no more"
    return {"T": "stopped by a signal", "t": "stopped by a debugger", "Z": "dead"}.get(state, "alive")


# --- all of them ---------------------------------------------------------------------------------------------------


def _versions(seen: Observed) -> Finding:
    if seen.others:
        text = ", ".join(f"{name} runs {version or 'no version of ours'}" for name, version in seen.others.items())
        return wrong("versions", f"{text}, this is {VERSION}", "install one version everywhere; yuan down && yuan up")
    return ok("versions", f"all that answers is of version {VERSION}")


def _clock(stack: Stack, seen: Observed) -> Finding:
    home = Path(stack.manifest.cluster.home)
    if os.access(home, os.W_OK | os.X_OK):
        with suppress(OSError):
            before = time.time()
            changed = write_and_remove(home)
            seen.ahead["the home's file system"] = changed - min(max(changed, before), time.time())
    late = {name: ahead for name, ahead in seen.ahead.items() if abs(ahead) > LARGEST_SKEW_S}
    if late:
        text = ", ".join(
            f"{name} is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine"
            for name, ahead in late.items()
        )
        return wrong("clock", text, "let NTP set the clocks of all hosts (systemctl status systemd-timesyncd)")
    compared = ", ".join(seen.ahead) or "nothing that runs"
    return ok("clock", f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}; compared with {compared}")
