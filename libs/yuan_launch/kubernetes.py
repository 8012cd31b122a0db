"""The manifest of a run under Kubeflow Trainer (v2, `trainer.kubeflow.org/v1alpha1`), for `kubectl apply`.

A TrainJob and a TrainingRuntime of its own. The older PyTorchJob (`kubeflow.org/v1`) is no longer developed. A runtime
of its own, since what a TrainJob may change of a shared one differs between v2.0 (podSpecOverrides), v2.1
(podTemplateOverrides) and v2.2 (runtimePatches), while a runtime is a JobSet's template in all of them; and nobody
has to install one first. No ML policy but the number of hosts: agents need no torchrun.
"""

import re
from typing import Any

import yaml

from yuan_launch.agents import MODULE, Agents
from yuan_manifest.schema import KubernetesSection

API = "trainer.kubeflow.org/v1alpha1"
_INDEX = "YUAN_HOST_INDEX"
_TEMPORARY = "/tmp"  # noqa: S108


def kubernetes_name(job: str, suffix: str) -> str:
    """Returns the name of a run's objects: a DNS label, short enough for the pods' names made of it."""
    plain = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-")
    return f"yuan-{plain[:24].rstrip('-')}-{suffix}"


def kubernetes_manifest(agents: Agents, section: KubernetesSection, home: str, name: str) -> str:
    """Returns the manifest as YAML.

    Args:
        agents: to be started.
        section: of the topology.
        home: `cluster.home`, at which every pod mounts the claim.
        name: of the objects, as `kubernetes_name` makes it.
    """
    metadata = {
        "name": name,
        "namespace": section.namespace,
        "labels": {"app.kubernetes.io/name": "yuan-stack", "app.kubernetes.io/component": "trainer"},
    }
    runtime = {
        "apiVersion": API,
        "kind": "TrainingRuntime",
        "metadata": metadata,
        "spec": {
            "mlPolicy": {"numNodes": agents.hosts},
            "template": {"spec": {"replicatedJobs": [_replicated_job(agents, section, home, name)]}},
        },
    }
    job = {
        "apiVersion": API,
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": API.partition("/")[0], "kind": "TrainingRuntime", "name": name},
            "trainer": {"numNodes": agents.hosts},
        },
    }
    return "".join(f"---\n{yaml.dump(item, Dumper=_Dumper, sort_keys=False, width=120)}" for item in (runtime, job))


def _replicated_job(agents: Agents, section: KubernetesSection, home: str, name: str) -> dict[str, Any]:
    # Kubeflow Trainer finds the job and the container to scale by these two names and the label.
    return {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {
                "backoffLimit": 0,  # Yuan Stack's own queue decides what is run again
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": False,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": section.user,
                            "runAsGroup": section.user,
                            "fsGroup": section.user,
                            "fsGroupChangePolicy": "OnRootMismatch",
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [_container(agents, section, home, name)],
                        "volumes": [
                            {"name": "home", "persistentVolumeClaim": {"claimName": section.claim}},
                            {"name": "temporary", "emptyDir": {}},
                            # Ranks of a pod hand each other tensors there; a container has 64 MB of it by default.
                            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                        ],
                    }
                },
            },
        },
    }


def _container(agents: Agents, section: KubernetesSection, home: str, name: str) -> dict[str, Any]:
    first = f"{name}-node-0-0.{name}"  # pod and headless service, as JobSet names them
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    container: dict[str, Any] = {
        "name": "node",
        "image": section.image,
        "command": ["python", "-m", MODULE, *agents.arguments(_INDEX, first)],
        "env": [
            {"name": _INDEX, "valueFrom": {"fieldRef": {"fieldPath": index}}},
            {"name": "HOME", "value": _TEMPORARY},
        ],
        "ports": [{"containerPort": agents.port, "protocol": "TCP"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "home", "mountPath": home},
            {"name": "temporary", "mountPath": _TEMPORARY},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    if agents.cuda and section.device_resource is not None:
        container["resources"] = {"limits": {section.device_resource: agents.devices}}
    return container


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: the same labels twice are easier to read than a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True
