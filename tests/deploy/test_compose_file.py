"""docker-compose.yml as it stands in the file: what each container may do. `tests/system/test_compose.py` runs it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from yuan_manifest import load_cluster
from yuan_stack.processes import Role, plan_of

HANDOVERS = {"secrets", "redis-secrets", "postgres-secrets"}
"""They give files to the users of the others, and end."""

ROOT = {*HANDOVERS, "sandbox"}
RIGHTS = {
    "sandbox": {"SETUID", "SETGID", "KILL"},
    **{name: {"CHOWN", "DAC_OVERRIDE", "FOWNER"} for name in HANDOVERS},
}
GPU = {"trainer-worker-gpu", "inference-gpu"}


@pytest.fixture(scope="module")
def compose(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def test_every_process_of_the_cluster_manifest_is_a_container(
    repository: Path, services: dict[str, dict[str, Any]]
) -> None:
    processes = plan_of(load_cluster(repository / "deploy" / "docker" / "cluster.yaml")).processes
    for process in processes:
        server = process.role is Role.server
        name = process.service if server else f"{process.service}-worker"
        assert services[name]["image"].startswith(f"yuan-{process.service}:"), name
        if not server:
            assert services[name]["command"] == ["python", "-m", f"yuan_{process.service}", "worker"]
        elif process.section.metrics_port is not None:
            assert process.section.metrics_bind == "0.0.0.0"  # noqa: S104 - Prometheus is another container
    others = {"redis", "postgres", "sandbox", "prometheus", "grafana", *HANDOVERS, *GPU}
    assert services.keys() == {
        *others,
        *(p.service if p.role is Role.server else f"{p.service}-worker" for p in processes),
    }


def test_no_container_writes_its_root_or_gains_rights_or_takes_without_limit(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert any(entry.startswith("/tmp:size=") for entry in service["tmpfs"]), name  # noqa: S108
        assert all("size=" in entry for entry in service["tmpfs"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("cap_add", ())) == RIGHTS.get(name, set()), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "mem_limit", "pids_limit"} <= service.keys(), name
        assert (service["user"] == "root") == (name in ROOT), name
        assert not {"privileged", "pid", "ipc", "devices"} & service.keys(), name
        networks = service.get("networks", [])
        assert (service.get("network_mode") == "none") == (name in ROOT), name
        assert bool(networks) == (name not in ROOT), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert not any(volume.startswith("/") for volume in service.get("volumes", ())), name


def test_whoever_stays_has_a_health_or_is_a_worker_that_the_registry_watches(
    services: dict[str, dict[str, Any]], repository: Path
) -> None:
    dockerfile = (repository / "deploy" / "docker" / "Dockerfile").read_text()
    for name, service in services.items():
        if name in HANDOVERS:
            assert "restart" not in service
            continue
        assert service["restart"] == "unless-stopped", name
        health = service.get("healthcheck")
        if "-worker" in name:
            assert health == {"disable": True}, name
        elif health is None:
            role = service["image"].partition(":")[0].removeprefix("yuan-")
            assert f'"yuan_rpc.probe", "{role}"' in dockerfile, name
        else:
            assert health["test"][0] in ("CMD", "CMD-SHELL"), name


def test_secrets_are_files_and_each_container_has_its_own_alone(
    services: dict[str, dict[str, Any]], repository: Path
) -> None:
    for name, service in services.items():
        assert "env_file" not in service, name
        for key, value in (service.get("environment") or {}).items():
            secret = re.search("PASSWORD|TOKEN|SECRET", key)
            assert secret is None or key.endswith("__FILE"), (name, key)
            assert key != "PGPASSFILE" or value.startswith("/run/"), name
    mounted = {
        name: {volume.split(":")[0] for volume in service.get("volumes", ()) if "secrets:" in volume}
        for name, service in services.items()
        if name not in HANDOVERS
    }
    alone = {"redis", "postgres", "prometheus", "grafana", "gateway"}
    for name in alone:
        assert mounted[name] == {f"{name}-secrets"}, name
    assert mounted["sandbox"] == set()
    for name, volumes in mounted.items():
        assert name in alone or name == "sandbox" or volumes == {"secrets"}, name
        assert all(volume.endswith(":ro") for volume in services[name].get("volumes", ()) if "secrets:" in volume), name
    made = (repository / "deploy" / "docker" / "compose.sh").read_text()
    for name in ("token", "prometheus", "postgres-password", "redis-password", "grafana-password"):
        assert name in made


def test_gpus_and_monitoring_are_profiles_and_the_processor_is_the_default(
    services: dict[str, dict[str, Any]], repository: Path
) -> None:
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert {name for name, found in profiles.items() if found == ["gpu"]} == GPU
    assert {name for name, found in profiles.items() if found == ["cpu"]} == {"trainer-worker", "inference"}
    assert {name for name, found in profiles.items() if found == ["monitoring"]} == {"prometheus", "grafana"}
    assert "COMPOSE_PROFILES=cpu" in (repository / ".env").read_text().splitlines()
    for name in GPU:
        plain = services[name.removesuffix("-gpu")]
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        changed = {key for key in {*plain, *services[name]} if plain.get(key) != services[name].get(key)}
        assert changed <= {"profiles", "deploy", "networks"}, name
    assert services["inference-gpu"]["networks"] == {"yuan": {"aliases": ["inference"]}}
    # Nobody waits for a container that another profile would have started.
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            assert not profiles[needed] or profiles[needed] == profiles[name], (name, needed)


def test_builds_on_the_hosts_network_are_of_every_image_of_ours(
    services: dict[str, dict[str, Any]], repository: Path
) -> None:
    override = yaml.safe_load((repository / "deploy" / "docker" / "host-network.override.yml").read_text())
    assert override["services"].keys() == {name for name, service in services.items() if "build" in service}
