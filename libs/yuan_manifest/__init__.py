"""Manifests: what to run (jobs, pipelines) and on what (clusters), as typed values, with errors of one line.

Loading needs neither torch nor a running service; artifacts that a manifest names are not looked for here.
"""

from yuan_manifest.errors import ManifestError, Origin, Origins, origins_of
from yuan_manifest.loading import job_of_plain, load_cluster, load_job, to_yaml, topology_of_plain
from yuan_manifest.merging import split_overrides
from yuan_manifest.pipeline import Step, load_pipeline, load_steps
from yuan_manifest.schema import (
    JOB_OF_KIND,
    SERVICE_OF_KIND,
    Cluster,
    ClusterManifest,
    ConvertJob,
    Device,
    DocumentMode,
    EvaluateJob,
    GenerateJob,
    Job,
    Kind,
    Layout,
    PipelineJob,
    Precision,
    PretrainJob,
    SchedulingSection,
    TokenizeJob,
    TokenizerAlgorithm,
    TokenizerJob,
    Topology,
)
from yuan_manifest.topology import check_run, data_size, device_count, rank_count, resolve_topology
from yuan_manifest.values import KeyPath

__all__ = [
    "JOB_OF_KIND",
    "SERVICE_OF_KIND",
    "Cluster",
    "ClusterManifest",
    "ConvertJob",
    "Device",
    "DocumentMode",
    "EvaluateJob",
    "GenerateJob",
    "Job",
    "KeyPath",
    "Kind",
    "Layout",
    "ManifestError",
    "Origin",
    "Origins",
    "PipelineJob",
    "Precision",
    "PretrainJob",
    "SchedulingSection",
    "Step",
    "TokenizeJob",
    "TokenizerAlgorithm",
    "TokenizerJob",
    "Topology",
    "check_run",
    "data_size",
    "device_count",
    "job_of_plain",
    "load_cluster",
    "load_job",
    "load_pipeline",
    "load_steps",
    "origins_of",
    "rank_count",
    "resolve_topology",
    "split_overrides",
    "to_yaml",
    "topology_of_plain",
]
