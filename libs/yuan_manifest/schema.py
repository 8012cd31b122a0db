"""Every field that a user can decide, typed: one dataclass a section, one dataclass a kind of job.

The classes are OmegaConf structured configs, so only types that it knows occur here. What values may be, beyond
their type, is checked in `checks.py`; what must hold between a job and where it runs (a stage list and the number of
layers) in `topology.py`. Loading lives in `loading.py`.
"""

from dataclasses import asdict, dataclass, field, is_dataclass
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from yuan_manifest.choices import (
    Decay,
    Device,
    DocumentMode,
    Kind,
    Launcher,
    Layout,
    Precision,
    TokenizerAlgorithm,
)
from yuan_manifest.sections import (
    CheckpointSection,
    ConvertInputs,
    ConvertOutputs,
    DataSection,
    DatasetOutputs,
    EvaluateInputs,
    EvaluationSection,
    GenerateInputs,
    ModelInput,
    ModelOutputs,
    ModelSection,
    OptimizerSection,
    ReportOutputs,
    SamplingSection,
    ServingSection,
    TargetSection,
    TextInputs,
    TokenizeInputs,
    TokenizerOutputs,
    TokenizerSection,
    TokenizeSection,
    TrainingInputs,
    TrainSection,
    WeightedDataset,
)
from yuan_manifest.values import is_list, is_section

__all__ = [
    "JOB_OF_KIND",
    "SERVICE_OF_KIND",
    "CheckpointSection",
    "Cluster",
    "ClusterManifest",
    "ConvertInputs",
    "ConvertJob",
    "ConvertOutputs",
    "DataSection",
    "DatasetOutputs",
    "Decay",
    "Device",
    "DocumentMode",
    "EvaluateInputs",
    "EvaluateJob",
    "EvaluationSection",
    "GenerateInputs",
    "GenerateJob",
    "Job",
    "Kind",
    "Launcher",
    "Layout",
    "ModelInput",
    "ModelOutputs",
    "ModelSection",
    "Nodes",
    "OptimizerSection",
    "Parallel",
    "PipelineJob",
    "PipelineStep",
    "Precision",
    "PretrainJob",
    "ReportOutputs",
    "SamplingSection",
    "ServingSection",
    "TargetSection",
    "TextInputs",
    "TokenizeInputs",
    "TokenizeJob",
    "TokenizeSection",
    "TokenizerAlgorithm",
    "TokenizerJob",
    "TokenizerOutputs",
    "TokenizerSection",
    "Topology",
    "TrainSection",
    "TrainingInputs",
    "WeightedDataset",
    "as_plain",
]

SERVICE_OF_KIND: dict[Kind, str | None] = {
    Kind.tokenizer: "data",
    Kind.tokenize: "data",
    Kind.pretrain: "trainer",
    Kind.generate: "inference",
    Kind.convert: "converter",
    Kind.evaluate: "evaluator",
    Kind.deploy: "converter",
    Kind.pipeline: None,
}
"""The service whose `python -m yuan_<service> run` does a kind; a pipeline is only an order of other jobs."""


# --- topology and cluster ----------------------------------------------------------------------------------------


@dataclass
class Nodes:
    """The machines. count: hosts. devices: devices (ranks) a host. device: their kind."""

    count: int = 1
    devices: int = 2
    device: Device = Device.auto


@dataclass
class Parallel:
    """How ranks share the work: a data x pipeline x tensor grid.

    Attributes:
        pipeline: pipeline stages.
        stages: `auto` (the planner's), `uniform`, or transformer layers per stage as a list ([1, 3]).
        tensor: tensor-parallel size.
        data: data-parallel size; `auto`: as many as the devices allow.
        zero_stage: DeepSpeed ZeRO stage.
    """

    pipeline: int = 1
    stages: Any = "auto"
    tensor: int = 1
    data: Any = "auto"
    zero_stage: int = 1


@dataclass
class Topology:
    """On what, and how divided."""

    launcher: Launcher = Launcher.local
    nodes: Nodes = field(default_factory=Nodes)
    parallel: Parallel = field(default_factory=Parallel)


@dataclass
class ServiceSection:
    """A service of the stack.

    Attributes:
        host: name or address at which the others reach it.
        bind: address that its server listens on; null: `host`.
        port: of its gRPC server.
        workers: worker processes, each doing one job at a time. The inference service has none.
        metrics_port: of Prometheus metrics on loopback; null: none.
    """

    host: str = "127.0.0.1"
    bind: str | None = None
    port: int = MISSING
    workers: int = 1
    metrics_port: int | None = None


@dataclass
class Services:
    """The services that `yuan up` starts, and where clients find them; null: not part of this stack."""

    data: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7101))
    trainer: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7102))
    converter: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7103))
    inference: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7105, workers=0))


@dataclass
class TlsSection:
    """Encryption of every port.

    Attributes:
        certificate: PEM file that a server shows.
        key: PEM file with its private key.
        authority: PEM file of the authority that clients trust.
        client_certificate: PEM file that clients (the services among themselves too) show; null: none.
        client_key: PEM file with its private key.
        require_client_certificate: refuse clients that show none of this authority's (mTLS).
    """

    certificate: str = MISSING
    key: str = MISSING
    authority: str = MISSING
    client_certificate: str | None = None
    client_key: str | None = None
    require_client_certificate: bool = False


@dataclass
class SecuritySection:
    """Who may call.

    Attributes:
        token_file: file with the bearer token, readable by its owner alone; `yuan up` makes it.
        tls: encryption; null: none.
        plaintext: allow ports off the loopback interface without tls (inside a private container network).
    """

    token_file: str = "${cluster.home}/token"  # noqa: S105 - a path
    tls: TlsSection | None = None
    plaintext: bool = False


@dataclass
class Cluster:
    """Where things are kept and where services run.

    Attributes:
        home: folder of registry, run states and logs, seen by every service.
        registry: SQLAlchemy URL of the registry: SQLite, or `postgresql+psycopg://…`.
        broker: `embedded` (a Valkey that `yuan up` starts), or a `redis://` URL.
        store: fsspec URL or folder of artifacts.
        services: of the stack.
        security: who may call.
        lease_seconds: how long a worker may be silent before its job is given to another.
    """

    home: str = "${oc.env:YUAN_HOME,'~/.yuan'}"
    registry: str = "sqlite:///${cluster.home}/registry.db"
    broker: str = "embedded"
    store: str = "${cluster.home}/store"
    services: Services = field(default_factory=Services)
    security: SecuritySection = field(default_factory=SecuritySection)
    lease_seconds: int = 30


@dataclass
class ClusterManifest:
    """A cluster file: where things run."""

    version: int = 1
    cluster: Cluster = field(default_factory=Cluster)
    topology: Topology = field(default_factory=Topology)


# --- jobs --------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """What every job has.

    Attributes:
        version: of the manifest format; 1.
        kind: what the job does.
        name: of the job, for people.
        topology: what of the cluster's topology this job overrides (a partial `Topology`).
    """

    version: int = 1
    kind: Kind = MISSING
    name: str = MISSING
    topology: dict[str, Any] = field(default_factory=dict[str, Any])

    def recipe(self) -> dict[str, Any]:
        """Returns what is done, without on what: all but the topology, as JSON's types, keys in a fixed order."""
        return {key: value for key, value in as_plain(self).items() if key != "topology"}


@dataclass
class TokenizerJob(Job):
    """Trains a SentencePiece tokenizer on text."""

    inputs: TextInputs = field(default_factory=TextInputs)
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    outputs: TokenizerOutputs = field(default_factory=TokenizerOutputs)


@dataclass
class TokenizeJob(Job):
    """Cuts text into a dataset."""

    inputs: TokenizeInputs = field(default_factory=TokenizeInputs)
    tokenize: TokenizeSection = field(default_factory=TokenizeSection)
    outputs: DatasetOutputs = field(default_factory=DatasetOutputs)

    def recipe(self) -> dict[str, Any]:
        """Returns what is done, also without the number of workers: the output does not depend on it."""
        return {key: value for key, value in super().recipe().items() if key != "tokenize"}


@dataclass
class PretrainJob(Job):
    """Trains a model from its first weights."""

    model: ModelSection = field(default_factory=ModelSection)
    inputs: TrainingInputs = field(default_factory=TrainingInputs)
    data: DataSection = field(default_factory=DataSection)
    train: TrainSection = field(default_factory=TrainSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    outputs: ModelOutputs = field(default_factory=ModelOutputs)


@dataclass
class GenerateJob(Job):
    """Continues prompts and keeps the answers as a report."""

    inputs: GenerateInputs = field(default_factory=GenerateInputs)
    sampling: SamplingSection = field(default_factory=SamplingSection)
    outputs: ReportOutputs = field(default_factory=ReportOutputs)


@dataclass
class ConvertJob(Job):
    """Rewrites a model in another layout or number format."""

    inputs: ConvertInputs = field(default_factory=ConvertInputs)
    target: TargetSection = field(default_factory=TargetSection)
    outputs: ConvertOutputs = field(default_factory=ConvertOutputs)


@dataclass
class EvaluateJob(Job):
    """Scores a model. suite: what is measured; `perplexity` on the dataset's validation part."""

    inputs: EvaluateInputs = field(default_factory=EvaluateInputs)
    suite: list[str] = field(default_factory=lambda: ["perplexity"])
    data: DataSection = field(default_factory=DataSection)
    samples: int = 64
    outputs: ReportOutputs = field(default_factory=ReportOutputs)


@dataclass
class DeployJob(Job):
    """Serves a model: the inference service loads it now, and again whenever it starts."""

    inputs: ModelInput = field(default_factory=ModelInput)
    serving: ServingSection = field(default_factory=ServingSection)


@dataclass
class PipelineStep:
    """One job of a pipeline.

    Attributes:
        manifest: its file, relative to the pipeline's own.
        needs: steps that must have succeeded before it.
        overrides: values that replace the file's, as a tree (`{train: {steps: 10}}`).
    """

    manifest: str = MISSING
    needs: list[str] = field(default_factory=list[str])
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class PipelineJob(Job):
    """Jobs in the order of their needs."""

    steps: dict[str, PipelineStep] = field(default_factory=dict[str, PipelineStep])


JOB_OF_KIND: dict[Kind, type[Job]] = {
    Kind.tokenizer: TokenizerJob,
    Kind.tokenize: TokenizeJob,
    Kind.pretrain: PretrainJob,
    Kind.generate: GenerateJob,
    Kind.convert: ConvertJob,
    Kind.evaluate: EvaluateJob,
    Kind.deploy: DeployJob,
    Kind.pipeline: PipelineJob,
}


def as_plain(value: Any) -> Any:
    """Returns a section or value as JSON's types: dicts in the schema's order, lists, text, numbers, None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if is_section(value):
        return {key: as_plain(child) for key, child in value.items()}
    if is_list(value):
        return [as_plain(child) for child in value]
    return value.value if isinstance(value, StrEnum) else value
