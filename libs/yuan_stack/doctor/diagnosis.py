"""All checks in the order in which they are told."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from yuan_manifest import ClusterManifest
from yuan_stack.doctor.findings import Finding
from yuan_stack.doctor.machine import (
    look_at_compiler,
    look_at_devices,
    look_at_launcher,
    look_at_packages,
    look_at_python,
    look_at_sandbox,
)
from yuan_stack.doctor.places import look_at_disks, look_at_home, look_at_store, look_at_tls, look_at_token
from yuan_stack.doctor.services import look_at_what_runs, runs_elsewhere
from yuan_stack.stack import Stack


def diagnose(manifest: ClusterManifest) -> Iterator[Finding]:
    """Looks at this machine and at the stack of a cluster; findings come as they are made."""
    stack = Stack.of(manifest)
    cluster = stack.manifest.cluster
    home = Path(cluster.home)
    services = list(dict.fromkeys(process.service for process in stack.plan.processes))
    elsewhere = runs_elsewhere(stack)
    in_use = elsewhere or stack.folder.lock.exists()

    # Torch takes seconds to answer: meanwhile the rest is looked at.
    with ThreadPoolExecutor(max_workers=1) as executor:
        devices = executor.submit(look_at_devices, stack.manifest.topology)
        yield look_at_python()
        yield from look_at_packages(services, needed=not elsewhere)
        yield look_at_compiler()
        if (launcher := look_at_launcher(stack.manifest.topology, needed=not elsewhere)) is not None:
            yield launcher
        if "evaluator" in services and not elsewhere:
            yield look_at_sandbox()
        yield look_at_home(home)
        yield look_at_token(cluster, in_use=in_use)
        yield from look_at_tls(cluster)
        yield look_at_store(cluster.store)
        yield from look_at_disks(home, cluster.store)
        yield from look_at_what_runs(stack)
        yield devices.result()
