"""deploy/kubernetes: valid for Kubernetes, complete, and of pods that may do no more than they must."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from yuan_manifest import load_cluster
from yuan_manifest.schema import Launcher
from yuan_stack.processes import Role, plan_of

KUBERNETES = "1.34.0"


@pytest.fixture(scope="session")
def folder(repository: Path) -> Path:
    return repository / "deploy" / "kubernetes"


@pytest.fixture(scope="session")
def kustomization(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


@pytest.fixture(scope="session")
def resources(folder: Path, kustomization: dict[str, Any]) -> list[dict[str, Any]]:
    found = [yaml.safe_load_all((folder / name).read_text()) for name in kustomization["resources"]]
    return [resource for documents in found for resource in documents if resource is not None]


@pytest.fixture(scope="session")
def workloads(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    kinds = {"Deployment", "StatefulSet"}
    return {one["metadata"]["name"]: one["spec"]["template"] for one in resources if one["kind"] in kinds}


def named(resources: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in resources if one["kind"] == kind}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    plain = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return plain and all(
        labels.get(term["key"]) in term["values"] if term["operator"] == "In" else term["key"] in labels
        for term in selector.get("matchExpressions", [])
    )


def test_every_resource_is_valid_for_kubernetes(resources: list[dict[str, Any]]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="the schemas are in the extra dev")
    assert len(resources) > 30
    for resource in resources:
        validate.validate(resource, KUBERNETES, strict=True)
    broken = resources[0] | {"spec": {"finalizer": []}}
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, KUBERNETES, strict=True)


def test_the_kustomization_lists_every_file(folder: Path, kustomization: dict[str, Any]) -> None:
    generated = {name for one in kustomization["configMapGenerator"] for name in one["files"]}
    monitoring = yaml.safe_load((folder / "monitoring" / "kustomization.yaml").read_text())
    found = {path.name for path in (folder / "monitoring").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(monitoring["resources"]) == found
    files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} - generated
    assert sorted(kustomization["resources"]) == sorted(files)


def test_kustomize_renders_it_with_the_secrets_that_its_script_makes(folder: Path, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed here")
    copy = tmp_path / "kubernetes"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("secrets"))
    for _ in range(2):
        subprocess.run(["bash", str(copy / "secrets.sh")], check=True)
        token = (copy / "secrets" / "token").read_text()
    assert token == (copy / "secrets" / "token").read_text()
    assert len(token) == 64
    assert all(path.stat().st_mode & 0o077 == 0 for path in (copy / "secrets").iterdir())
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(copy)], check=True, capture_output=True, text=True, env={**os.environ, "HOME": "/"}
    )
    kinds = [one["kind"] for one in yaml.safe_load_all(rendered.stdout)]
    assert {"ConfigMap", "Secret", "Deployment", "HorizontalPodAutoscaler"} <= set(kinds)


def test_every_process_of_the_cluster_manifest_is_there_and_reached_at_its_port(
    folder: Path, resources: list[dict[str, Any]], workloads: dict[str, dict[str, Any]]
) -> None:
    manifest = load_cluster(folder / "cluster.yaml")
    services = named(resources, "Service")
    for process in plan_of(manifest).processes:
        name = process.service if process.role is Role.server else f"{process.service}-worker"
        container = workloads[name]["spec"]["containers"][0]
        assert container["command"] == ["python", "-m", f"yuan_{process.service}", process.role.value]
        if process.role is Role.server:
            assert process.section.host == name
            assert services[name]["spec"]["ports"][0]["port"] == process.section.port
            if process.section.metrics_port is not None:
                assert services[name]["spec"]["ports"][1]["port"] == process.section.metrics_port
                assert container["ports"][1]["containerPort"] == process.section.metrics_port
                assert process.section.metrics_bind == "0.0.0.0"  # noqa: S104 - Prometheus is in another pod
            assert container["ports"][0]["containerPort"] == process.section.port
            probes = [container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
            assert {" ".join(probe["exec"]["command"]) for probe in probes} == {
                f"python -m yuan_rpc.probe {process.service}"
            }
    planned = {process.service for process in plan_of(manifest).processes}
    assert set(workloads) == {
        *planned,
        *(f"{process.service}-worker" for process in plan_of(manifest).processes if process.role is Role.worker),
        "redis",
        "postgres",
    }
    assert manifest.topology.launcher is Launcher.kubernetes
    assert manifest.topology.kubernetes is not None
    assert named(resources, "PersistentVolumeClaim").keys() == {manifest.topology.kubernetes.claim}
    (rule,) = named(resources, "Role")["trainer"]["rules"]
    assert {"create", "patch", "get", "delete"} <= set(rule["verbs"])
    assert workloads["trainer-worker"]["spec"]["serviceAccountName"] == "trainer"


def test_no_pod_is_root_or_may_write_its_root_file_system_or_take_what_it_likes(
    workloads: dict[str, dict[str, Any]],
) -> None:
    for name, template in workloads.items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec.get("serviceAccountName") == "trainer" or spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert all("hostPath" not in volume for volume in spec["volumes"]), name
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            if container["name"] != "sandbox":
                assert context["capabilities"] == {"drop": ["ALL"]}, name
                assert not {"runAsUser", "runAsNonRoot"} & context.keys(), name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= volumes | {"redis", "postgres"}, name


def test_programs_of_models_run_in_a_container_without_sockets_secrets_and_rights(
    workloads: dict[str, dict[str, Any]],
) -> None:
    spec = workloads["evaluator-worker"]["spec"]
    (sandbox,) = (one for one in spec["initContainers"] if one["name"] == "sandbox")
    # Before the worker, and for as long as it lives.
    assert sandbox["restartPolicy"] == "Always"
    assert sandbox["command"][:4] == ["python", "-m", "yuan_evaluator", "sandbox"]
    assert "--deny-network" in sandbox["command"]
    place = sandbox["command"][sandbox["command"].index("--socket") + 1]
    assert sandbox["startupProbe"]["exec"]["command"] == ["test", "-S", place]
    assert sandbox["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SETUID", "SETGID", "KILL"]}
    assert "env" not in sandbox
    # Of what it mounts, it shares the socket's folder alone with anybody, who may not write there.
    (worker,) = spec["containers"]
    theirs = {mount["name"]: mount for mount in worker["volumeMounts"]}
    shared = {mount["name"] for mount in sandbox["volumeMounts"]} & theirs.keys()
    assert shared == {"sandbox"}
    assert theirs["sandbox"]["readOnly"] is True
    assert {"name": "YUAN_SANDBOX", "value": place} in worker["env"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in sandbox["volumeMounts"]:
        assert volumes[mount["name"]]["emptyDir"].keys() == {"medium", "sizeLimit"}
    assert {mount["mountPath"] for mount in sandbox["volumeMounts"]} >= {"/tmp", "/dev/shm"}  # noqa: S108
    others = [
        c
        for name, one in workloads.items()
        if name != "evaluator-worker"
        for c in one["spec"].get("initContainers", [])
    ]
    assert "sandbox" not in {container["name"] for container in others}


def test_prometheus_operator_reads_every_server_with_a_token_that_may_only_look(
    folder: Path, repository: Path, resources: list[dict[str, Any]], kustomization: dict[str, Any]
) -> None:
    monitors = list(yaml.safe_load_all((folder / "monitoring" / "servicemonitor.yaml").read_text()))
    secrets = {one["name"]: one for one in kustomization["secretGenerator"]}
    read: set[str] = set()
    for monitor in monitors:
        (endpoint,) = monitor["spec"]["endpoints"]
        secret = endpoint["authorization"]["credentials"]
        assert f"secrets/{secret['key']}" in secrets[secret["name"]]["files"]
        assert secrets[secret["name"]]["options"] == {"disableNameSuffixHash": True}
        for name, service in named(resources, "Service").items():
            ports = {port.get("name") for port in service["spec"]["ports"]}
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"]) and endpoint["port"] in ports:
                read.add(name)
    manifest = load_cluster(folder / "cluster.yaml").cluster
    assert read == {"data", "trainer", "converter", "evaluator", "inference", "gateway"}
    assert manifest.security.tenants["prometheus"].role == "viewer"
    rules = yaml.safe_load((folder / "monitoring" / "prometheusrule.yaml").read_text())["spec"]
    assert rules == yaml.safe_load((repository / "deploy" / "prometheus" / "alerts.yaml").read_text())


def test_secrets_come_from_files_and_stand_in_no_resource(resources: list[dict[str, Any]]) -> None:
    assert "Secret" not in {resource["kind"] for resource in resources}
    text = yaml.safe_dump(resources)
    assert "POSTGRES_PASSWORD_FILE" in text
    assert "secretKeyRef" not in text


def test_every_pod_has_its_disruption_budget(
    resources: list[dict[str, Any]], workloads: dict[str, dict[str, Any]]
) -> None:
    budgets = named(resources, "PodDisruptionBudget")
    for template in workloads.values():
        labels = template["metadata"]["labels"]
        matching = [name for name, one in budgets.items() if selects(one["spec"]["selector"], labels)]
        assert matching == [labels["app.kubernetes.io/component"]]


def test_inference_is_scaled_by_a_gauge_that_its_server_has(
    repository: Path, resources: list[dict[str, Any]], workloads: dict[str, dict[str, Any]]
) -> None:
    spec = named(resources, "HorizontalPodAutoscaler")["inference"]["spec"]
    assert spec["scaleTargetRef"]["name"] in workloads
    assert "replicas" not in named(resources, "Deployment")["inference"]["spec"]
    from prometheus_client import CollectorRegistry, generate_latest

    from yuan_inference.engine.metrics import EngineMetrics

    registry = CollectorRegistry()
    EngineMetrics(registry).of("demo")
    (metric,) = spec["metrics"]
    assert f"\n{metric['pods']['metric']['name']}{{".encode() in generate_latest(registry)


def test_a_pod_talks_with_those_that_it_has_to_and_with_nobody_else(
    folder: Path, resources: list[dict[str, Any]], workloads: dict[str, dict[str, Any]]
) -> None:
    policies = [one["spec"] for one in resources if one["kind"] == "NetworkPolicy"]
    labels = {name: template["metadata"]["labels"] for name, template in workloads.items()}
    labels["rank"] = {"jobset.sigs.k8s.io/jobset-name": "run"}
    assert any(one["podSelector"] == {} and set(one["policyTypes"]) == {"Ingress", "Egress"} for one in policies)

    def open_for(one: str, other: str, port: int, direction: str, peers: str) -> bool:
        return any(
            selects(policy["podSelector"], labels[one])
            and any(selects(peer["podSelector"], labels[other]) for peer in rule[peers] if "podSelector" in peer)
            and ("ports" not in rule or port in {entry["port"] for entry in rule["ports"]})
            for policy in policies
            for rule in policy.get(direction, [])
            if peers in rule
        )

    def talks(one: str, other: str, port: int) -> bool:
        return open_for(one, other, port, "egress", "to") and open_for(other, one, port, "ingress", "from")

    processes = plan_of(load_cluster(folder / "cluster.yaml")).processes
    servers = {process.service: process.section.port for process in processes if process.role is Role.server}
    workers = [f"{process.service}-worker" for process in processes if process.role is Role.worker]
    for who in (*servers, *workers):
        for server, port in servers.items():
            assert talks(who, server, port), (who, server)
        if who != "gateway":
            assert talks(who, "postgres", 5432)
            assert talks(who, "redis", 6379)
    assert talks("rank", "rank", 29500)
    for server, port in servers.items():
        assert not talks("rank", server, port)
        assert not talks("redis", server, port)
    assert not talks("rank", "postgres", 5432)
    assert not talks("data", "rank", 29500)
    assert not talks("data", "postgres", 22)
