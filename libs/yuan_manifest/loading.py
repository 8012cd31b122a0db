"""Manifest files to typed jobs and clusters: read, merge, override, check, resolve.

The order is fixed: `extends` from left to right, the file itself, then `key=value` overrides. What is returned is
whole and right, but for what needs other files (artifacts, text) or, without a cluster given, the topology.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yuan_manifest.checks import check
from yuan_manifest.conform import conform
from yuan_manifest.errors import ManifestError, Origins, attach
from yuan_manifest.interpolation import build, escaped
from yuan_manifest.merging import VERSION, Layers, apply_overrides, check_version, read_layers, split_override
from yuan_manifest.schema import JOB_OF_KIND, ClusterManifest, Job, Kind, PipelineJob, Topology, as_plain
from yuan_manifest.topology import check_run, resolve_topology
from yuan_manifest.values import children, format_path, shown, with_home
from yuan_manifest.yaml_source import dump_yaml

DEFAULT_CLUSTER = Path("configs/clusters/local.yaml")
"""Relative to the working directory; taken when neither an argument nor YUAN_CLUSTER names a cluster."""


def load_job(path: str | Path, overrides: Sequence[str] = (), cluster: ClusterManifest | None = None) -> Job:
    """Loads a job's manifest.

    Args:
        path: of the file.
        overrides: `key=value` items put over it, in order; those of `cluster.` belong to `load_cluster`.
        cluster: if given, the job is checked against its topology too.

    Returns:
        The dataclass of its kind, with every value resolved; its topology is what it overrides, no more.

    Raises:
        ManifestError: if anything is wrong with it, in one line.
    """
    return job_of_layers(read_layers(path), str(path), overrides, cluster)


def job_of_layers(
    layers: Layers, file: str, overrides: Sequence[str] = (), cluster: ClusterManifest | None = None
) -> Job:
    """Does what `load_job` does, from what was already read; `file` is how errors call the manifest."""
    if layers.tree.get("kind") == Kind.pipeline.value:
        overrides = _spelled_out(overrides, layers.tree.get("steps"))
    apply_overrides(layers, overrides)
    origins = layers.frozen(file)
    cls = JOB_OF_KIND[_kind(layers.tree, origins)]
    _check_version(layers.tree, origins)
    job = build(cls, conform(cls, layers.tree, origins), origins)
    attach(job, origins)
    check(job, origins)
    partial = ("topology",)
    check(build(Topology, job.topology, origins, above=partial), origins, partial)
    if cluster is not None:
        check_run(job, resolve_topology(job, cluster))
    return job


def job_of_plain(tree: dict[str, Any], name: str = "submitted job") -> Job:
    """Returns the job of a tree of plain values, as `as_plain` makes it; nothing in it is interpolated.

    Args:
        tree: the resolved manifest.
        name: what errors call it.

    Raises:
        ManifestError: if anything is wrong with it, in one line.
    """
    layers = Layers()
    layers.put(escaped(tree), {})
    return job_of_layers(layers, name)


def topology_of_plain(tree: dict[str, Any], name: str = "submitted topology") -> Topology:
    """Returns the topology of a tree of plain values, as `as_plain` makes it.

    Raises:
        ManifestError: if anything is wrong with it, in one line.
    """
    layers = Layers()
    layers.put({"topology": escaped(tree)}, {})
    origins = layers.frozen(name)
    checked = conform(ClusterManifest, layers.tree, origins)["topology"]
    topology = build(Topology, checked, origins, above=("topology",))
    attach(topology, origins)
    check(topology, origins, ("topology",))
    return topology


def load_cluster(path: str | Path | None = None, overrides: Sequence[str] = ()) -> ClusterManifest:
    """Loads a cluster's manifest; `~` at the start of its paths becomes the user's home folder.

    Args:
        path: of the file; None: the one that YUAN_CLUSTER names, else `configs/clusters/local.yaml` below the
            working directory if it is there, else the schema's defaults, which are the same.
        overrides: `cluster.…=value` items put over it.

    Raises:
        ManifestError: if anything is wrong with it, in one line.
    """
    if path is None:
        path = os.environ.get("YUAN_CLUSTER") or (DEFAULT_CLUSTER if DEFAULT_CLUSTER.is_file() else None)
    layers = Layers() if path is None else read_layers(with_home(str(path)))
    if path is None:
        layers.tree["version"] = VERSION
    apply_overrides(layers, overrides)
    origins = layers.frozen("built-in defaults" if path is None else str(path))
    if "kind" in layers.tree:
        problem = f"this is a job (kind: {layers.tree['kind']}), given as a cluster; a cluster manifest has no kind"
        raise ManifestError.at(origins.find(("kind",)), ("kind",), problem)
    _check_version(layers.tree, origins)
    manifest = build(ClusterManifest, conform(ClusterManifest, layers.tree, origins), origins)
    for field in ("home", "registry", "store"):
        setattr(manifest.cluster, field, _expanded(getattr(manifest.cluster, field)))
    attach(manifest, origins)
    check(manifest, origins)
    return manifest


def to_yaml(manifest: Job | ClusterManifest) -> str:
    """Returns a manifest, resolved and with all its defaults, as YAML that loads to an equal one."""
    tree = as_plain(manifest)
    if isinstance(manifest, Job) and not manifest.topology:
        del tree["topology"]
    return dump_yaml(escaped(tree))


def _kind(tree: dict[str, Any], origins: Origins) -> Kind:
    names = [kind.value for kind in Kind]
    if "cluster" in tree:
        problem = "stands in a cluster manifest, never in a job; give the cluster's file with -f or YUAN_CLUSTER"
        if "kind" not in tree:
            problem = "this is a cluster manifest, given as a job; give it with -f or YUAN_CLUSTER"
        raise ManifestError.at(origins.find(("cluster",)), ("cluster",), problem)
    if "kind" not in tree:
        problem = f"missing; expected one of {', '.join(names)}"
        raise ManifestError.at(origins.find(()), ("kind",), problem)
    value = tree["kind"]
    if value not in names:
        # Only the kind is looked at yet: which other keys are right depends on it.
        conform(Job, {"kind": value}, origins)
        problem = f"expected one of {', '.join(names)}, found {shown(value)}"
        raise ManifestError.at(origins.find(("kind",)), ("kind",), problem)
    return Kind(value)


def _check_version(tree: dict[str, Any], origins: Origins) -> None:
    if "version" not in tree:
        raise ManifestError.at(origins.find(()), ("version",), f"missing; write `version: {VERSION}`")
    check_version(tree["version"], origins.find(("version",)))


def _spelled_out(overrides: Sequence[str], steps: object) -> list[str]:
    """Turns `pretrain.train.steps=10`, which is short for it, into `steps.pretrain.overrides.train.steps=10`."""
    fields = {field.name for field in dataclasses.fields(PipelineJob)}
    names = {key for key, _ in children(steps)}
    items: list[str] = []
    for item in overrides:
        path, value = split_override(item)
        if path[0] in names - fields:
            items.append(f"{format_path(('steps', path[0], 'overrides', *path[1:]))}={value}")
        else:
            items.append(item)
    return items


def _expanded(location: str) -> str:
    """Expands `~` at the start of a path, also of one behind `sqlite:///` or `file://`."""
    match = re.match(r"(sqlite(?:\+\w+)?:///|file://|)(~.*)", location, re.DOTALL)
    return match.group(1) + with_home(match.group(2)) if match else location
