"""Pictures as values, boxes and arrows with coordinates, which a template draws as SVG: division, cluster, lineage."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from yuan_events import YuanError
from yuan_gateway.console.access import PATH
from yuan_jobs.lineage import Lineage, places
from yuan_manifest import Cluster, Precision, data_size, job_of_plain, topology_of_plain
from yuan_manifest.schema import FinetuneJob, PretrainJob, Services, Topology, TrainingJob
from yuan_parallel.grid import Grid
from yuan_parallel.plan import resolve_division
from yuan_parallel.stages import StagePlan
from yuan_parallel.training import training_of

_GAP = 16
_MOST_BOXES = 600


@dataclass(frozen=True)
class Box:
    """A box: where it is, what stands in it, and what it is (`tone`, a class of the style sheet)."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...] = ()
    tone: str = ""
    href: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Arrow:
    """A curve from a point to another one."""

    path: str
    hint: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture; `problem` is why there is none, and `facts` stand below it."""

    width: float = 0
    height: float = 0
    boxes: tuple[Box, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    problem: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


# --- the division of a run -------------------------------------------------------------------------------------------


def division_picture(recipe: Mapping[str, Any], topology: Mapping[str, Any], result: Mapping[str, Any]) -> Picture:
    """Draws which rank computes which layers for which share of the data.

    Args:
        recipe: a training's.
        topology: its resolved topology.
        result: what it reported at its end; its stages are believed.
    """
    try:
        job = job_of_plain(dict(recipe))
        where = topology_of_plain(dict(topology))
    except YuanError as error:
        return Picture(problem=str(error))
    if not isinstance(job, TrainingJob):
        return Picture(problem="")
    parallel = where.parallel
    stages = result.get("stages") or _stages_of(job, where)
    grid = Grid(parallel.pipeline, data_size(where), parallel.tensor)
    facts = {
        "hosts": where.nodes.count,
        "devices": where.nodes.count * where.nodes.devices,
        "ranks": grid.ranks,
        "pipeline": grid.pipeline,
        "data": grid.data,
        "tensor": grid.tensor,
        "zero": parallel.zero_stage,
        "micro_batches": job.train.global_batch_size // max(1, job.train.micro_batch_size),
    }
    if grid.ranks > _MOST_BOXES:
        return Picture(problem="many", facts=facts)
    return _grid_picture(grid, stages, where.nodes.devices, facts)


def _stages_of(job: TrainingJob, topology: Topology) -> list[int] | None:
    """Returns the layers of each stage; None where they cannot be known without looking into a model."""
    network = job.model if isinstance(job, PretrainJob | FinetuneJob) else None
    if isinstance(topology.parallel.stages, list):
        return list(topology.parallel.stages)
    if network is None:
        return None
    try:
        return list(resolve_division(topology, training_of(job, network, Precision.fp32)).stages.layers)
    except (YuanError, ValueError, ArithmeticError):
        return None


def _grid_picture(grid: Grid, stages: list[int] | None, per_host: int, facts: Mapping[str, Any]) -> Picture:
    rank_width, rank_height, head, side = 108, 46, 62, 96
    stage_width = grid.tensor * (rank_width + 6) + 14
    bounds = StagePlan(tuple(stages)).bounds if stages and len(stages) == grid.pipeline else None
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    for stage in range(grid.pipeline):
        x = side + stage * (stage_width + 34)
        if bounds is None:
            layers = ""
        else:
            first, end = bounds[stage], bounds[stage + 1] - 1
            layers = f"layer {first}" if first == end else f"layers {first}-{end}"
        height = head + grid.data * (rank_height + 8) + 6
        boxes.append(Box(x, 8, stage_width, height, (f"stage {stage}", layers), "group"))
        for replica in range(grid.data):
            y = 8 + head + replica * (rank_height + 8)
            for part in range(grid.tensor):
                rank = grid.rank(stage, replica, part)
                lines = (f"rank {rank}", f"host {rank // per_host} · {rank % per_host}")
                at = x + 10 + part * (rank_width + 6)
                boxes.append(Box(at, y, rank_width, rank_height, lines, f"host{rank // per_host % 4}"))
            if stage + 1 < grid.pipeline:
                middle = y + rank_height / 2
                arrows.append(Arrow(f"M{x + stage_width + 3} {middle} H{x + stage_width + 29}"))
    for replica in range(grid.data):
        y = 8 + head + replica * (rank_height + 8)
        boxes.append(Box(0, y, side - 12, rank_height, ("replica", str(replica)), "plain"))
    width = side + grid.pipeline * (stage_width + 34) - 34 + 4
    return Picture(width, 8 + head + grid.data * (rank_height + 8) + 16, tuple(boxes), tuple(arrows), facts=facts)


# --- the cluster -----------------------------------------------------------------------------------------------------


def cluster_picture(cluster: Cluster, topology: Topology, health: Mapping[str, str]) -> Picture:
    """Draws the services with how they are, what they share, and the hosts that train.

    Args:
        cluster: where services are.
        topology: of the hosts.
        health: of each service: `serving`, `stopping`, `silent`.
    """
    width, height, step = 132, 66, 148
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    names = [one.name for one in fields(Services) if one.name != "gateway" and getattr(cluster.services, one.name)]
    total = max(step * len(names) - (step - width), 3 * step)
    gateway = cluster.services.gateway
    center = total / 2
    if gateway is not None:
        boxes.append(Box(center - width / 2, 4, width, height, ("gateway", f":{gateway.port}"), "serving"))
    for number, name in enumerate(names):
        section = getattr(cluster.services, name)
        x = number * step
        at = f"{section.host}:{section.port}" if section.host not in ("127.0.0.1", "localhost") else f":{section.port}"
        boxes.append(Box(x, 116, width, height, (name, at), health.get(name, "silent")))
        arrows.append(Arrow(f"M{center} {4 + height} C{center} 100 {x + width / 2} 80 {x + width / 2} 114"))
    shared = ("registry", "broker", "store")
    for number, name in enumerate(shared):
        x = center + (number - 1) * step - width / 2
        text = str(getattr(cluster, name))
        kind = text.partition(":")[0] if ":" in text else ("embedded" if text == "embedded" else "file")
        boxes.append(Box(x, 228, width, 52, (name, kind.partition("+")[0]), "shared"))
    return Picture(total, 288, tuple(boxes), tuple(arrows))


def hosts_picture(topology: Topology) -> Picture:
    """Draws the hosts that train, each with its devices."""
    nodes = topology.nodes
    if nodes.count * nodes.devices > _MOST_BOXES:
        return Picture(problem="many")
    size, most = 46, 8
    columns = min(most, nodes.devices)
    rows = -(-nodes.devices // most)
    width, height = columns * (size + 6) + 14, rows * (size + 6) + 40
    side_by_side = max(1, min(nodes.count, 900 // (width + _GAP)))
    boxes: list[Box] = []
    for host in range(nodes.count):
        x, y = (host % side_by_side) * (width + _GAP), (host // side_by_side) * (height + _GAP)
        boxes.append(Box(x, y, width, height, (f"host {host}",), "group"))
        for device in range(nodes.devices):
            at_x, at_y = x + 10 + device % most * (size + 6), y + 32 + device // most * (size + 6)
            boxes.append(Box(at_x, at_y, size, size, (str(device),), f"host{host % 4}"))
    lines = -(-nodes.count // side_by_side)
    return Picture(side_by_side * (width + _GAP), lines * (height + _GAP), tuple(boxes))


# --- lineage ---------------------------------------------------------------------------------------------------------


def lineage_picture(lineage: Lineage[Any]) -> Picture:
    """Draws the artifacts from left to right, each right of all that it was made from."""
    width, height, step_x, step_y = 190, 54, 250, 76
    placed = places(lineage)
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    for reference, (column, row) in placed.items():
        kind, _, name = reference.partition("/")
        shown = name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
        tone = "chosen" if reference == lineage.root else kind
        href = f"{PATH}/artifacts/{reference}"
        x, y = column * step_x + 2, row * step_y + 2
        boxes.append(Box(x, y, width, height, (kind, shown), tone, href, reference))
        for name_of_input, source in lineage.sources(reference):
            if source in placed:
                from_column, from_row = placed[source]
                begin_x, begin_y = from_column * step_x + 2 + width, from_row * step_y + 2 + height / 2
                end_y = y + height / 2
                half = (begin_x + x) / 2
                path = f"M{begin_x} {begin_y} C{half} {begin_y} {half} {end_y} {x - 3} {end_y}"
                arrows.append(Arrow(path, f"{name_of_input}: {source} → {reference}"))
    columns = 1 + max(column for column, _ in placed.values())
    rows = 1 + max(row for _, row in placed.values())
    return Picture((columns - 1) * step_x + width + 4, (rows - 1) * step_y + height + 4, tuple(boxes), tuple(arrows))
