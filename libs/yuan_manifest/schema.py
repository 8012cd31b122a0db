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
    Answering,
    AttentionBackend,
    BadStep,
    CostModel,
    Decay,
    Device,
    DocumentMode,
    FinetuneMethod,
    Kind,
    Launcher,
    Layout,
    OnError,
    Packing,
    Precision,
    Profile,
    Recompute,
    SpecialStrings,
    TokenizerAlgorithm,
    WeightFormat,
)
from yuan_manifest.cotraining import (
    AnswerInputs,
    GateSection,
    GatherSection,
    JudgeInputs,
    ReleaseInputs,
    RequestsOutputs,
)
from yuan_manifest.scheduling import SchedulingSection
from yuan_manifest.sections import (
    CheckpointSection,
    ConvertInputs,
    ConvertOutputs,
    DataSection,
    DatasetOutputs,
    DeployInputs,
    EvaluateInputs,
    EvaluateSection,
    EvaluationSection,
    FinetuneInputs,
    FinetuneSection,
    GenerateInputs,
    GuardSection,
    LoraSection,
    ModelInput,
    ModelOutputs,
    ModelSection,
    OptimizerSection,
    PlanSection,
    RecomputeSection,
    ReportOutputs,
    SamplingSection,
    SandboxSection,
    ServingSection,
    TargetSection,
    TextInputs,
    TokenizeInputs,
    TokenizerFilters,
    TokenizerInputs,
    TokenizerOutputs,
    TokenizerSection,
    TokenizeSection,
    TrackingSection,
    TrainingInputs,
    TrainSection,
    WandbSection,
    WeightedDataset,
)
from yuan_manifest.values import is_list, is_section

__all__ = [
    "JOB_OF_KIND",
    "SERVICE_OF_KIND",
    "AnswerInputs",
    "AnswerJob",
    "Answering",
    "AttentionBackend",
    "BadStep",
    "CheckpointSection",
    "Cluster",
    "ClusterManifest",
    "ConvertInputs",
    "ConvertJob",
    "ConvertOutputs",
    "CostModel",
    "DataSection",
    "DatasetOutputs",
    "Decay",
    "DeployInputs",
    "DeployJob",
    "Device",
    "DocumentMode",
    "EvaluateInputs",
    "EvaluateJob",
    "EvaluateSection",
    "EvaluationSection",
    "FinetuneInputs",
    "FinetuneJob",
    "FinetuneMethod",
    "FinetuneSection",
    "GateSection",
    "GatherJob",
    "GatherSection",
    "GenerateInputs",
    "GenerateJob",
    "GuardSection",
    "Job",
    "JudgeInputs",
    "JudgeJob",
    "Kind",
    "KubernetesSection",
    "Launcher",
    "Layout",
    "LoraSection",
    "ModelInput",
    "ModelOutputs",
    "ModelSection",
    "Nodes",
    "OnError",
    "OptimizerSection",
    "Packing",
    "Parallel",
    "PipelineJob",
    "PipelineStep",
    "PlanJob",
    "PlanSection",
    "Precision",
    "PretrainJob",
    "Profile",
    "Recompute",
    "RecomputeSection",
    "ReleaseInputs",
    "ReleaseJob",
    "ReportOutputs",
    "RequestsOutputs",
    "RetentionSection",
    "SamplingSection",
    "SandboxSection",
    "SchedulingSection",
    "ServingSection",
    "SlurmSection",
    "SpecialStrings",
    "TargetSection",
    "TextInputs",
    "TokenizeInputs",
    "TokenizeJob",
    "TokenizeSection",
    "TokenizerAlgorithm",
    "TokenizerFilters",
    "TokenizerInputs",
    "TokenizerJob",
    "TokenizerOutputs",
    "TokenizerSection",
    "Topology",
    "TrackingSection",
    "TrainSection",
    "TrainingInputs",
    "TrainingJob",
    "WandbSection",
    "WeightFormat",
    "WeightedDataset",
    "as_plain",
]

SERVICE_OF_KIND: dict[Kind, str | None] = {
    Kind.tokenizer: "data",
    Kind.tokenize: "data",
    Kind.pretrain: "trainer",
    Kind.finetune: "trainer",
    Kind.plan: None,
    Kind.generate: "inference",
    Kind.convert: "converter",
    Kind.evaluate: "evaluator",
    Kind.deploy: "converter",
    Kind.gather: "data",
    Kind.judge: "evaluator",
    Kind.release: "converter",
    Kind.answer: "evaluator",
    Kind.pipeline: None,
}
"""The service whose `python -m yuan_<service> run` does a kind; a pipeline is only an order of other
jobs, and a plan is only computed (`yuan plan`)."""


# --- topology and cluster ----------------------------------------------------------------------------------------


@dataclass
class Nodes:
    """The machines.

    Attributes:
        count: hosts.
        devices: devices (ranks) a host.
        device: their kind.
        memory_gib: memory of a device; null: read off this machine.
        tflops: 10^12 floating-point operations a second that a device reaches in matrix products; null: measured here.
        peak_tflops: those of its data sheet, which MFU and HFU are shares of; null: as tflops.
        link_gbps: gigabits a second, one way, between two devices of a host; null: measured or looked up.
        network_gbps: gigabits a second, one way, that a device has to another host; null: as link_gbps on one host.
    """

    count: int = 1
    devices: int = 2
    device: Device = Device.auto
    memory_gib: float | None = None
    tflops: float | None = None
    peak_tflops: float | None = None
    link_gbps: float | None = None
    network_gbps: float | None = None


@dataclass
class Parallel:
    """How ranks share the work: a data x pipeline x tensor grid.

    Attributes:
        pipeline: pipeline stages.
        stages: `auto` (the planner's), `uniform`, or transformer layers per stage as a list ([1, 3]).
        tensor: tensor-parallel size.
        sequence: divide the sequence too, between the tensor-parallel matrices; nothing without tensor parallelism.
        data: data-parallel size; `auto`: as many as the devices allow.
        zero_stage: DeepSpeed ZeRO stage: 1 with a pipeline, 0 to 3 without.
    """

    pipeline: int = 1
    stages: Any = "auto"
    tensor: int = 1
    sequence: bool = True
    data: Any = "auto"
    zero_stage: int = 1


@dataclass
class SlurmSection:
    """A Slurm cluster.

    Attributes:
        partition: to submit to; null: the default one.
        account: to charge; null: the default one.
        time: limit, as `sbatch --time` takes it; null: the partition's.
        options: more options of sbatch, `--NAME=VALUE` each.
        prologue: lines of shell before the ranks start (`module load …`).
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    options: list[str] = field(default_factory=list[str])
    prologue: list[str] = field(default_factory=list[str])


@dataclass
class KubernetesSection:
    """A Kubernetes cluster with Kubeflow's training operator.

    Attributes:
        namespace: of the job.
        image: with Yuan Stack in it.
        claim: persistent volume claim that every pod mounts at `cluster.home`.
        device_resource: resource name of a device; null: none asked for.
        user: number of the user and group that ranks run as, never 0; 10001 is that of our images.
    """

    namespace: str = "default"
    image: str = "yuan-stack"
    claim: str = MISSING
    device_resource: str | None = "nvidia.com/gpu"
    user: int = 10001


@dataclass
class Topology:
    """On what, and how divided.

    Attributes:
        launcher: how ranks are started. `hostfile`, `slurm`, `kubernetes`: all hosts see `cluster.home` at one path.
        hostfile: file of lines `HOST slots=N` for launcher hostfile.
        slurm: for launcher slurm.
        kubernetes: for launcher kubernetes.
        port: at which the first host's ranks wait for the others, with more than one host.
        nodes: the machines.
        parallel: how ranks share the work.
    """

    launcher: Launcher = Launcher.local
    hostfile: str | None = None
    slurm: SlurmSection = field(default_factory=SlurmSection)
    kubernetes: KubernetesSection | None = None
    port: int = 29500
    nodes: Nodes = field(default_factory=Nodes)
    parallel: Parallel = field(default_factory=Parallel)


@dataclass
class ServiceSection:
    """A service of the stack.

    Attributes:
        host: name or address at which the others reach it.
        bind: address that its server listens on; null: `host`.
        port: of its gRPC server; of the gateway's HTTP server.
        workers: worker processes, each doing one job at a time. The inference service and the gateway have none.
        metrics_port: of Prometheus metrics (`http://HOST:PORT/metrics`); null: none.
        metrics_bind: address that they are served on; beyond loopback they ask for a token, a tenant's or the stack's.
    """

    host: str = "127.0.0.1"
    bind: str | None = None
    port: int = MISSING
    workers: int = 1
    metrics_port: int | None = None
    metrics_bind: str = "127.0.0.1"


@dataclass
class GatewaySection(ServiceSection):
    """The gateway.

    Attributes:
        console: pages for a browser under `/console`, for whoever has a token.
    """

    console: bool = True


@dataclass
class Services:
    """The services that `yuan up` starts, and where clients find them; null: not part of this stack."""

    data: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7101))
    trainer: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7102))
    converter: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7103))
    evaluator: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7104))
    inference: ServiceSection | None = field(default_factory=lambda: ServiceSection(port=7105, workers=0))
    gateway: GatewaySection | None = field(default_factory=lambda: GatewaySection(port=7100, workers=0))


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


class Role(StrEnum):
    """What a token allows. viewer: asks models, reads. operator: also runs jobs, loads models. admin: everything."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"


@dataclass
class TenantSection:
    """A caller of every service, with a token, a role and limits of its own.

    Attributes:
        token_file: file with its bearer token, readable by its owner alone; `yuan up` makes it. Several, one a line,
            all hold.
        role: what the token allows.
        expires: when the token ends, `2027-01-31` or `2027-01-31T12:00:00Z` (UTC); null: never.
        requests_per_minute: more are refused with a retry hint; null: no limit.
        tokens_per_minute: of prompts and answers together; null: no limit.
        concurrent_requests: that run or wait at once; null: no limit.
    """

    token_file: str = MISSING
    role: Role = Role.viewer
    expires: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


@dataclass
class AuditSection:
    """The log of who did what.

    Attributes:
        folder: of its files, which all processes share and their user alone can read.
        file_mib: a file is set aside before it grows beyond that.
        files: how many that were set aside are kept, of changes and of refusals each.
    """

    folder: str = "${cluster.home}/audit"
    file_mib: float = 16.0
    files: int = 20


@dataclass
class SecuritySection:
    """Who may call.

    Attributes:
        token_file: file with the bearer token, readable by its owner alone; `yuan up` makes it. It allows everything.
            Several, one a line, all hold; clients bring the first.
        tokens: file of the tokens that `yuan token` issues, with names, roles, ends and hashes; it need not exist.
        tls: encryption; null: none.
        plaintext: allow ports off the loopback interface without tls (inside a private container network).
        tenants: further callers, by name, each with a token file.
        audit: the log of who did what.
        urls: what submitted jobs may read and write besides files and the cluster's own store: URLs, and what is below
            them (`s3://corpora/`, `https://data.example.org/sets`); none: nothing.
        webhook_hosts: hosts that `scheduling.notify` may name (`hooks.example.org`, `*.example.org`); none: nobody is
            told.
    """

    token_file: str = "${cluster.home}/token"  # noqa: S105 - a path
    tokens: str = "${cluster.home}/tokens.json"
    tls: TlsSection | None = None
    plaintext: bool = False
    tenants: dict[str, TenantSection] = field(default_factory=dict[str, TenantSection])
    audit: AuditSection = field(default_factory=AuditSection)
    urls: list[str] = field(default_factory=list[str])
    webhook_hosts: list[str] = field(default_factory=list[str])


@dataclass
class ObservabilitySection:
    """What the inference service and the gateway tell of their requests.

    Attributes:
        traces: OTLP/gRPC endpoint that traces are sent to, `http://127.0.0.1:4317`; null: no traces.
        log_requests: one JSON line a request: times, tokens, status; nothing of its text.
        log_prompts: prompts and answers in those lines, too.
    """

    traces: str | None = None
    log_requests: bool = True
    log_prompts: bool = False


@dataclass
class RetentionSection:
    """What `yuan gc` keeps.

    Attributes:
        artifact_versions: newest versions of each artifact; besides these, what something else needs.
        run_days: for how long the run folder (checkpoints, events, logs) of a job that has ended is kept.
    """

    artifact_versions: int = 3
    run_days: float = 30.0


@dataclass
class Cluster:
    """Where things are kept and where services run.

    Attributes:
        home: folder of registry, run states and logs, seen by every service.
        registry: SQLAlchemy URL of the registry: SQLite, or `postgresql+psycopg://…`.
        broker: `embedded` (a Valkey that `yuan up` starts), or a `redis://` URL.
        broker_password_file: file with the password of that URL's user, readable by its owner alone; null: none.
        store: fsspec URL or folder of artifacts.
        services: of the stack.
        security: who may call.
        observability: what is told of requests.
        lease_seconds: how long a worker may be silent before its job is given to another.
        retention: what is kept when `yuan gc` makes room.
    """

    home: str = "${oc.env:YUAN_HOME,'~/.yuan'}"
    registry: str = "sqlite:///${cluster.home}/registry.db"
    broker: str = "embedded"
    broker_password_file: str | None = None
    store: str = "${cluster.home}/store"
    services: Services = field(default_factory=Services)
    security: SecuritySection = field(default_factory=SecuritySection)
    observability: ObservabilitySection = field(default_factory=ObservabilitySection)
    lease_seconds: int = 30
    retention: RetentionSection = field(default_factory=RetentionSection)


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
        scheduling: when it runs, before whom.
    """

    version: int = 1
    kind: Kind = MISSING
    name: str = MISSING
    topology: dict[str, Any] = field(default_factory=dict[str, Any])
    scheduling: SchedulingSection = field(default_factory=SchedulingSection)

    def recipe(self) -> dict[str, Any]:
        """Returns what is done, without on what and when, as JSON's types, keys in a fixed order."""
        return {key: value for key, value in as_plain(self).items() if key not in {"topology", "scheduling"}}


@dataclass
class TokenizerJob(Job):
    """Trains a SentencePiece tokenizer on text, or takes one that is there."""

    inputs: TokenizerInputs = field(default_factory=TokenizerInputs)
    tokenizer: TokenizerSection = field(default_factory=TokenizerSection)
    outputs: TokenizerOutputs = field(default_factory=TokenizerOutputs)


@dataclass
class TokenizeJob(Job):
    """Cuts text into a dataset. cleaning: stages that each document goes through before, in order (`cleaning.py`)."""

    inputs: TokenizeInputs = field(default_factory=TokenizeInputs)
    cleaning: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tokenize: TokenizeSection = field(default_factory=TokenizeSection)
    outputs: DatasetOutputs = field(default_factory=DatasetOutputs)

    def recipe(self) -> dict[str, Any]:
        """Returns what is done, also without the number of workers: the output does not depend on it."""
        recipe = super().recipe()
        tokenize = {key: value for key, value in recipe["tokenize"].items() if key != "workers"}
        return recipe | {"tokenize": tokenize}


@dataclass
class TrainingJob(Job):
    """What every job that trains has."""

    inputs: TrainingInputs = field(default_factory=TrainingInputs)
    data: DataSection = field(default_factory=DataSection)
    train: TrainSection = field(default_factory=TrainSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)
    outputs: ModelOutputs = field(default_factory=ModelOutputs)


@dataclass
class PretrainJob(TrainingJob):
    """Trains a model from its first weights, or from those of another model."""

    model: ModelSection = field(default_factory=ModelSection)


@dataclass
class FinetuneJob(TrainingJob):
    """Teaches a model to answer. model: the sizes that the model it starts from must have; null: those that it has."""

    model: ModelSection | None = None
    inputs: FinetuneInputs = field(default_factory=FinetuneInputs)  # pyright: ignore[reportIncompatibleVariableOverride]
    finetune: FinetuneSection = field(default_factory=FinetuneSection)


@dataclass
class PlanJob(Job):
    """A training that is only planned: no data, no output."""

    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    train: TrainSection = field(default_factory=TrainSection)
    plan: PlanSection = field(default_factory=PlanSection)


@dataclass
class GenerateJob(Job):
    """Continues prompts and keeps the answers as a report."""

    inputs: GenerateInputs = field(default_factory=GenerateInputs)
    sampling: SamplingSection = field(default_factory=SamplingSection)
    outputs: ReportOutputs = field(default_factory=ReportOutputs)


@dataclass
class ConvertJob(Job):
    """Rewrites a model in another layout, topology or number format.

    Attributes:
        strict: refuse tensors that are no part of the network, and copies that differ, where else a line names them.
        verify: run the same tokens through both sides and compare; null: where the model fits into memory.
    """

    strict: bool = False
    verify: bool | None = None
    inputs: ConvertInputs = field(default_factory=ConvertInputs)
    target: TargetSection = field(default_factory=TargetSection)
    outputs: ConvertOutputs = field(default_factory=ConvertOutputs)


@dataclass
class EvaluateJob(Job):
    """Scores a model.

    Attributes:
        inputs: the model, and what it is asked.
        suite: tasks (`yuan evaluate --list`); `yuan`: the original's five; `perplexity`: of the dataset's validation
            part.
        data: how `perplexity` cuts its dataset.
        samples: sequences of `perplexity`.
        evaluate: how the tasks are asked and scored.
        outputs: the report.
    """

    inputs: EvaluateInputs = field(default_factory=EvaluateInputs)
    suite: list[str] = field(default_factory=lambda: ["perplexity"])
    data: DataSection = field(default_factory=DataSection)
    samples: int = 64
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    outputs: ReportOutputs = field(default_factory=ReportOutputs)


@dataclass
class DeployJob(Job):
    """Serves a model: the inference service loads it now, and again whenever it starts."""

    inputs: DeployInputs = field(default_factory=DeployInputs)
    serving: ServingSection = field(default_factory=ServingSection)


@dataclass
class GatherJob(Job):
    """Takes up the accepted teaching requests: their examples to learn from, and those to ask with."""

    gather: GatherSection = field(default_factory=GatherSection)
    outputs: RequestsOutputs = field(default_factory=RequestsOutputs)


@dataclass
class JudgeJob(Job):
    """Compares a new model's report with the old one's, and writes the changelog."""

    inputs: JudgeInputs = field(default_factory=JudgeInputs)
    gate: GateSection = field(default_factory=GateSection)
    outputs: ReportOutputs = field(default_factory=ReportOutputs)


@dataclass
class ReleaseJob(Job):
    """Publishes a model under the name that its users know, with its changelog, if it was judged good enough."""

    inputs: ReleaseInputs = field(default_factory=ReleaseInputs)
    outputs: ModelOutputs = field(default_factory=ModelOutputs)


@dataclass
class AnswerJob(Job):
    """Answers each request of a cycle. released: name under which kind release publishes the model."""

    inputs: AnswerInputs = field(default_factory=AnswerInputs)
    released: str = MISSING
    outputs: ReportOutputs = field(default_factory=ReportOutputs)


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
    Kind.finetune: FinetuneJob,
    Kind.plan: PlanJob,
    Kind.generate: GenerateJob,
    Kind.convert: ConvertJob,
    Kind.evaluate: EvaluateJob,
    Kind.deploy: DeployJob,
    Kind.gather: GatherJob,
    Kind.judge: JudgeJob,
    Kind.release: ReleaseJob,
    Kind.answer: AnswerJob,
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
