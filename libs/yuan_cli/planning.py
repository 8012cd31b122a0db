"""`yuan plan`: what a training comes to before anything runs. Needs no stack: arithmetic on a manifest and printing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from yuan_cli.pictures import check_picture
from yuan_events import InputError
from yuan_jobs.wiring import model_folder
from yuan_manifest import (
    Cluster,
    ClusterManifest,
    Job,
    ManifestError,
    load_cluster,
    load_job,
    origins_of,
    resolve_topology,
)
from yuan_manifest import split_overrides as split
from yuan_manifest.schema import (
    CostModel,
    FinetuneJob,
    ModelSection,
    PipelineJob,
    PlanJob,
    PretrainJob,
    Topology,
    TrainingJob,
)
from yuan_manifest.topology import check_division
from yuan_parallel import Network, Prediction, resolve_division, training_of
from yuan_parallel.advice import warnings_of
from yuan_parallel.hardware import Hardware, find_hardware
from yuan_parallel.sweep import Sweep, sweep
from yuan_parallel.training import GIBIBYTE, given_devices
from yuan_stack.tables import aligned

_SHOWN = 10
"""Topologies of a sweep that are listed."""

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)

Planned = TrainingJob | PlanJob


@dataclass(frozen=True)
class PlanOptions:
    """What was asked for beside the manifest. cost_model: in place of the manifest's."""

    as_json: bool = False
    sweep: bool = False
    picture: Path | None = None
    cost_model: str | None = None


def plan_manifest(manifest: Path, overrides: Sequence[str], cluster_path: Path | None, options: PlanOptions) -> int:
    """Predicts a manifest's training and prints it.

    Raises:
        InputError: if it is no training, cannot be divided so, or something must be known that is not.
    """
    if options.picture is not None:
        check_picture("--picture", options.picture)
    asked = _cost_model(options.cost_model)
    job_overrides, cluster_overrides = split(overrides)
    cluster = load_cluster(cluster_path, cluster_overrides)
    job = _planned(load_job(manifest, job_overrides, cluster), manifest)
    if isinstance(job, PlanJob) and asked is not None:
        job.plan.cost_model = asked
    topology, hardware, plan = predict(job, cluster, asked)
    training, cost_model = plan.training, plan.cost_model
    warnings = warnings_of(plan, given_devices(topology.nodes))
    found = sweep(job, topology, training, hardware.devices, cost_model) if options.sweep else None
    if options.as_json:
        tree = {"name": job.name, "kind": job.kind.value, **plan.to_dict(), "devices": _devices(hardware)}
        tree["warnings"] = warnings
        if found is not None:
            tree["sweep"] = [one.to_dict() for one in found.fitting]
        typer.echo(json.dumps(tree, indent=2))
    else:
        _print(job, topology, hardware, plan)
        for warning in warnings:
            typer.echo(f"warning: {warning}")
        if found is not None:
            _print_sweep(found, plan)
    if options.picture is not None:
        from yuan_parallel.picture import draw_schedule  # noqa: PLC0415 - matplotlib takes a second

        draw_schedule(plan, options.picture, title=job.name)
        typer.echo(f"picture: {options.picture}", err=options.as_json)
    return 0


def predict(
    job: Planned, cluster: ClusterManifest, cost_model: CostModel | None = None
) -> tuple[Topology, Hardware, Prediction]:
    """Predicts a training on a cluster.

    Args:
        job: the training.
        cluster: where.
        cost_model: in place of the manifest's.

    Returns:
        Its topology, what is known of the devices, and the prediction.

    Raises:
        InputError: if it cannot be divided so, or something must be known that is not.
    """
    topology = resolve_topology(job, cluster)
    network = network_of(job, cluster.cluster)
    check_division(job, topology, network)
    hardware = find_hardware(topology, job.train.precision)
    training = training_of(job, network, hardware.precision)
    chosen = cost_model or (job.plan.cost_model if isinstance(job, PlanJob) else CostModel.exact)
    return topology, hardware, Prediction(training, resolve_division(topology, training), hardware.devices, chosen)


def network_of(job: Planned, cluster: Cluster) -> Network:
    """Returns the sizes of the network that a job trains; fine-tuning's from the model that it starts from.

    Raises:
        InputError: if that model is not here, or of a layout that does not say its sizes.
    """
    if isinstance(job, PretrainJob | PlanJob):
        return job.model
    if isinstance(job, FinetuneJob) and job.model is not None:
        return job.model
    from yuan_cli.artifacts import artifact_folder  # noqa: PLC0415 - the registry's libraries take a second

    named = model_folder(job)
    try:
        folder = named if named is not None else artifact_folder(str(job.inputs.model), cluster)
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes = {name: int(values[name]) for name in _SIZES}
    except (InputError, OSError, ValueError, TypeError, KeyError) as error:
        key = ("inputs", "model")
        why = str(error) if isinstance(error, InputError) else f"no config.json with a network's sizes ({error!r})"
        problem = f"its sizes cannot be read: {why}; give them as a model section (extends: ../models/2b.yaml)"
        raise ManifestError.at(origins_of(job).find(key), key, problem) from None
    network = ModelSection()
    for name, size in sizes.items():
        setattr(network, name, size)
    return network


def _cost_model(text: str | None) -> CostModel | None:
    if text is None:
        return None
    if text not in list(CostModel):
        raise InputError(f"--cost-model: expected one of {', '.join(CostModel)}, found {text!r}")
    return CostModel(text)


def _planned(job: Job, manifest: Path) -> Planned:
    if isinstance(job, TrainingJob | PlanJob):
        return job
    mend = "; name the manifest of its training step" if isinstance(job, PipelineJob) else ""
    raise InputError(f"{manifest}: kind: yuan plan takes pretrain, finetune and plan, found {job.kind}{mend}")


def _devices(hardware: Hardware) -> dict[str, Any]:
    devices = hardware.devices

    def gigabits(speed: float) -> float | None:
        return None if speed == float("inf") else speed * 8 / 1e9

    return {
        "hosts": devices.hosts,
        "per_host": devices.per_host,
        "memory_gib": None if devices.memory is None else devices.memory / GIBIBYTE,
        "tflops": devices.speed / 1e12,
        "peak_tflops": devices.peak / 1e12,
        "link_gbps": gigabits(devices.link),
        "network_gbps": gigabits(devices.network),
        "sources": hardware.sources,
    }


# --- printing ----------------------------------------------------------------------------------------------------


def _print(job: Planned, topology: Topology, hardware: Hardware, plan: Prediction) -> None:
    training, division, network = plan.training, plan.division, plan.training.network
    recompute = f"recompute {training.recompute}"
    if training.recompute_every > 1 and training.recompute != "none":
        recompute += f" in every {training.recompute_every}. layer"
    typer.echo(
        f"{job.name}: {_count(plan.parameters)} parameters in {network.num_hidden_layers} layers; "
        f"{training.global_batch_size} x {training.sequence_length} tokens a step, {_count(training.tokens)} in all"
    )
    sequence = " with its sequence" if division.sequence else ""
    typer.echo(
        f"{division.ranks} ranks on {topology.nodes.count} x {topology.nodes.devices} devices: pipeline "
        f"{division.pipeline} x data {division.data} x tensor {division.tensor}{sequence}, ZeRO {division.zero_stage}; "
        f"{division.micro_batches(training)} micro-batches of {training.micro_batch_size}; {training.precision}, "
        f"{recompute}; cost model {plan.cost_model}"
    )
    typer.echo(f"a device: {_told(hardware)}")
    typer.echo("")
    _print_stages(plan)
    typer.echo("")
    _print_times(plan)
    typer.echo("")
    seconds = plan.seconds
    typer.echo(
        f"{plan.tokens_per_second:,.0f} tokens/s, MFU {plan.mfu:.1%}, HFU {plan.hfu:.1%}, bubble "
        f"{seconds.waiting:.1%}, {_days(plan.days)} to the end"
    )


def _told(hardware: Hardware) -> str:
    facts, sources = _devices(hardware), hardware.sources
    units = {
        "memory_gib": "GiB",
        "tflops": "TFLOP/s",
        "peak_tflops": "TFLOP/s peak",
        "link_gbps": "Gb/s in a host",
        "network_gbps": "Gb/s between hosts",
    }
    told = [
        f"{facts[name]:,.4g} {unit} ({sources[name]})"
        for name, unit in units.items()
        if name in sources and facts[name] is not None
    ]
    if hardware.devices.memory is None:
        told.append("memory not given (topology.nodes.memory_gib), so nothing is checked to fit")
    return ", ".join(told)


def _print_stages(plan: Prediction) -> None:
    """Prints memory by stage, of one device, in GiB."""
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "total")
    bounds = plan.division.stages.bounds
    rows = [
        (
            str(stage),
            f"{bounds[stage]}-{bounds[stage + 1] - 1} ({count})",
            *(f"{getattr(memory, part) / GIBIBYTE:.2f}" for part in parts),
        )
        for stage, (count, memory) in enumerate(zip(plan.division.stages.layers, plan.memory, strict=True))
    ]
    right = ("stage", *parts[:-1], "total GiB")
    for line in aligned(("stage", "layers", *parts[:-1], "total GiB"), rows, right=right):
        typer.echo(line)


def _print_times(plan: Prediction) -> None:
    seconds = plan.seconds.to_dict()
    total = seconds["total"]
    rows = [(name, f"{value:.3f}", f"{value / total:.1%}") for name, value in seconds.items()]
    for line in aligned(("a step", "seconds", "share"), rows, right=("seconds", "share")):
        typer.echo(line)


def _print_sweep(found: Sweep, plan: Prediction) -> None:
    typer.echo("")
    others = f"; {found.too_large} more do not fit" if found.too_large else ""
    if not found.fitting:
        typer.echo(f"sweep: none of the {found.too_large} topologies of these devices fits")
        return
    typer.echo(f"sweep: {len(found.fitting)} topologies of these devices fit{others}")
    headings = ("pipeline", "tensor", "data", "zero", "seconds", "tokens/s", "MFU", "bubble", "GiB")
    rows = [
        (
            str(one.division.pipeline),
            str(one.division.tensor),
            str(one.division.data),
            str(one.division.zero_stage),
            f"{one.seconds.total:.3f}",
            f"{one.tokens_per_second:,.0f}",
            f"{one.mfu:.1%}",
            f"{one.seconds.waiting:.1%}",
            f"{one.peak / GIBIBYTE:.1f}",
        )
        for one in found.fitting[:_SHOWN]
    ]
    for line in aligned(headings, rows, right=headings):
        typer.echo(line)
    best = found.fitting[0].division
    gain = found.fitting[0].tokens_per_second / plan.tokens_per_second
    typer.echo(
        f"best: topology.parallel.pipeline={best.pipeline} topology.parallel.tensor={best.tensor} "
        f"topology.parallel.data={best.data} topology.parallel.zero_stage={best.zero_stage} "
        f"topology.parallel.stages=auto ({best.stages}), {gain:.2f} times this plan's tokens/s"
    )


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:g}"


def _days(days: float) -> str:
    if days >= 1:
        return f"{days:,.1f} days"
    return f"{days * 24:.1f} hours" if days >= 1 / 24 else f"{days * 24 * 60:.1f} minutes"
