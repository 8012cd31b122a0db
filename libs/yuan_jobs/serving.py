"""`python -m yuan_<service> server`: one gRPC server with the JobService, the reconciler and the service's own calls.

What the service's own calls do is in the service; what jobs need is in `job_service.py` and `reconciler.py`.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from yuan_jobs.arguments import cluster_of
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.context import Work
from yuan_jobs.gauges import JobGauges
from yuan_jobs.home import Home
from yuan_jobs.job_service import ENDLESS, TRANSLATIONS, job_service
from yuan_jobs.registry import Registry
from yuan_jobs.teaching_service import TRANSLATIONS as TEACHING_TRANSLATIONS
from yuan_jobs.teaching_service import teaching_service
from yuan_manifest import ClusterManifest, Kind, device_count
from yuan_rpc import Mount, RpcServer, server_of
from yuan_rpc.open_files import allow_many_connections
from yuan_rpc.tracing import OFF, Tracing

_RECONCILER_GRACE_S = 10.0


@dataclass(frozen=True)
class ServerContext:
    """What a service's own calls may use; it lives as long as the server.

    Attributes:
        service: the service's name.
        manifest: the cluster: `manifest.cluster` says where the others are (`yuan_rpc.connect`), `manifest.topology`.
        home: folders of run states and logs.
        store: the artifact store.
        closing: what is put on it (`enter_async_context`, `push_async_callback`, `callback`) ends after the last call
            has ended, the newest first.
        on_ready: functions that are called, in the event loop, with the server as soon as its port is open
            (`server.set_serving`, `server.registry` for metrics).
        tracing: spans of the service's own, below those of its calls.
    """

    service: str
    manifest: ClusterManifest
    home: Home
    store: ArtifactStore
    closing: AsyncExitStack
    on_ready: list[Callable[[RpcServer], None]] = field(default_factory=list[Callable[[RpcServer], None]])
    tracing: Tracing = OFF

    @property
    def registry(self) -> Registry:
        """The registry of jobs and artifacts. Its methods block: call them with `asyncio.to_thread`."""
        return self.store.registry


Mounts = Callable[[ServerContext], Sequence[Mount]]
"""Makes a service's own servicers: `lambda context: [Mount(add_…Servicer_to_server, MyServicer(context), FULL_NAME)]`.

Called once, in the running event loop, before the port is open: it may start tasks (`asyncio.create_task`), and what
takes long (loading a model) belongs into one. A YuanError that it raises ends the server with one line.
"""


def run_server(
    service: str,
    works: Mapping[Kind, Work[Any]],
    arguments: Sequence[str],
    *,
    mounts: Mounts | None = None,
    jobs: bool = True,
    end_at_drain: Sequence[str] = (),
    traced: bool = False,
) -> int:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        service: the service's name.
        works: its kinds of jobs are those that its JobService takes.
        arguments: those after `server`.
        mounts: the service's own calls.
        jobs: whether there are a JobService and a reconciler.
        end_at_drain: full names of own streams that end when the server drains.
        traced: its calls are traced, where the cluster says where to.

    Returns:
        0.

    Raises:
        InputError: if the cluster is wrong, has no such service, or the port is taken.
    """
    manifest = cluster_of(f"python -m yuan_{service} server", arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    allow_many_connections()
    home = Home.of(manifest.cluster)
    store = ArtifactStore.open(home)
    tracing = Tracing(service, manifest.cluster.observability.traces if traced else None)
    context = ServerContext(service, manifest, home, store, AsyncExitStack(), tracing=tracing)
    try:
        asyncio.run(_serve(context, works, mounts, jobs=jobs, end_at_drain=end_at_drain))
    finally:
        tracing.close()
        store.registry.close()
    return 0


async def _serve(
    context: ServerContext,
    works: Mapping[Kind, Work[Any]],
    mounts: Mounts | None,
    *,
    jobs: bool,
    end_at_drain: Sequence[str],
) -> None:
    async with context.closing:
        servicers = list(mounts(context)) if mounts is not None else []
        endless = list(end_at_drain)
        if jobs:
            servicers.append(job_service(context, list(works)))
            servicers.append(teaching_service(context.registry))
            endless.extend(ENDLESS)
            devices = device_count(context.manifest.topology)
            context.on_ready.append(lambda server: server.registry.register(JobGauges(context.registry, devices)))
            context.on_ready.append(lambda server: _start_reconciler(context))
        server = server_of(
            context.service,
            context.manifest.cluster,
            servicers,
            translations={**TRANSLATIONS, **TEACHING_TRANSLATIONS},
            end_at_drain=endless,
            tracing=context.tracing,
        )

        def ready() -> None:
            for function in context.on_ready:
                function(server)

        await server.run(ready)


def _start_reconciler(context: ServerContext) -> None:
    """Runs a reconciler in a thread; it ends before the registry is closed."""
    from yuan_jobs.reconciler import Reconciler  # noqa: PLC0415 - loads Celery, which the inference server does without

    report = logging.getLogger("yuan_jobs.reconciler").warning
    reconciler = Reconciler(context.registry, context.manifest, report=report)
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop,), name="reconciler", daemon=True)

    async def end() -> None:
        stop.set()
        await asyncio.to_thread(thread.join, _RECONCILER_GRACE_S)

    thread.start()
    context.closing.push_async_callback(end)
