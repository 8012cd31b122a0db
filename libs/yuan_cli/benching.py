"""`yuan bench serve`: prompts from a file or a dataset, a load at each rate, a table and a picture of what came out."""

import asyncio
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from yuan_cli.pictures import check_picture
from yuan_client import AsyncClient, Retry, Sampling
from yuan_client.asking import Prompt
from yuan_client.load import LoadPlan, LoadResult, run_load
from yuan_events import InputError, WorkFailed
from yuan_manifest import Cluster, load_cluster
from yuan_rpc import connect
from yuan_stack.tables import aligned

_MOST_DOCUMENTS = 1000


@dataclass(frozen=True)
class ServeBench:
    """What is measured; see the command's options."""

    model: str
    prompts: Path | None
    dataset: str | None
    input_tokens: int
    rates: str
    requests: int
    max_tokens: int
    temperature: float
    ignore_eos: bool
    seed: int
    plot: Path | None


def bench_serve(wanted: ServeBench, cluster_path: Path | None, *, as_json: bool) -> int:
    """Measures and prints.

    Args:
        wanted: what.
        cluster_path: the cluster's file.
        as_json: print JSON.

    Returns:
        0.

    Raises:
        InputError: if an option is wrong, or prompts cannot be read.
        WorkFailed: if no request was answered.
    """
    rates = _rates(wanted.rates)
    for name in ("input_tokens", "requests", "max_tokens"):
        if getattr(wanted, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(wanted, name)}")
    if wanted.plot is not None:
        check_picture("--plot", wanted.plot)
    cluster = load_cluster(cluster_path).cluster
    prompts = _prompts(wanted, cluster)
    results = asyncio.run(_measure(wanted, cluster, prompts, rates))
    if not any(result.answered for result in results):
        codes = {code for result in results for code in result.failed}
        raise WorkFailed(f"no request was answered: {', '.join(sorted(codes))}")
    if wanted.plot is not None:
        draw(results, wanted.plot)
    if as_json:
        typer.echo(json.dumps({"results": [result.to_plain() for result in results]}, indent=2))
    else:
        for line in table(results):
            typer.echo(line)
        if wanted.plot is not None:
            typer.echo(f"picture: {wanted.plot}")
    return 0


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(rate > 0 for rate in rates):
        raise InputError(f"--rate: expected numbers above 0 with commas between them, or inf; found {text}")
    return rates


def _prompts(wanted: ServeBench, cluster: Cluster) -> list[Prompt]:
    if (wanted.prompts is None) == (wanted.dataset is None):
        raise InputError("expected either --prompts FILE or --dataset NAME")
    if wanted.prompts is not None:
        try:
            lines = wanted.prompts.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"--prompts {wanted.prompts}: {(error.strerror or str(error)).lower()}") from None
        except UnicodeDecodeError:
            raise InputError(f"--prompts {wanted.prompts}: is not UTF-8") from None
        found: list[Prompt] = [line for line in lines if line.strip()]
        if not found:
            raise InputError(f"--prompts {wanted.prompts}: has no line with text")
        return found
    return _documents(wanted, cluster)


def _documents(wanted: ServeBench, cluster: Cluster) -> list[Prompt]:
    from yuan_corpus.sharded_dataset import open_dataset  # noqa: PLC0415 - loads numpy
    from yuan_jobs.artifacts import ArtifactStore  # noqa: PLC0415 - loads SQLAlchemy
    from yuan_jobs.home import Home  # noqa: PLC0415

    store = ArtifactStore.open(Home.of(cluster))
    try:
        dataset = open_dataset(store.open_artifact(wanted.dataset or "", "dataset").path)
    finally:
        store.registry.close()
    numbers = [number for number, length in enumerate(dataset.lengths) if length > 1]
    if not numbers:
        raise InputError(f"--dataset {wanted.dataset}: has no document with two tokens")
    drawn = random.Random(wanted.seed).sample(numbers, min(len(numbers), _MOST_DOCUMENTS))
    # The last token of a document is its end: behind it begins another text.
    return [
        [int(token) for token in dataset.get(number, 0, min(wanted.input_tokens, int(dataset.lengths[number]) - 1))]
        for number in drawn
    ]


async def _measure(
    wanted: ServeBench, cluster: Cluster, prompts: Sequence[Prompt], rates: Sequence[float]
) -> list[LoadResult]:
    sampling = Sampling(
        temperature=wanted.temperature, max_tokens=wanted.max_tokens, ignore_eos=wanted.ignore_eos, seed=wanted.seed
    )
    results: list[LoadResult] = []
    async with AsyncClient(connect("inference", cluster), retry=Retry(attempts=1)) as client:
        model = (await client.model(wanted.model)).name
        for rate in rates:
            plan = LoadPlan(model, prompts, sampling, wanted.requests, rate, wanted.seed)

            def tell(ended: int, rate: float = rate) -> None:
                if sys.stderr.isatty():
                    end = "\n" if ended == wanted.requests else ""
                    typer.echo(f"\rrate {rate:g}/s: {ended}/{wanted.requests} requests{end}", err=True, nl=False)

            results.append(await run_load(client, plan, tell))
    return results


def table(results: Sequence[LoadResult]) -> list[str]:
    """Returns the lines of a table, a rate a line; times in milliseconds."""
    head = ["rate/s", "answered", "tokens/s", "requests/s"]
    head += [f"{name} ms, p50 / p95 / p99" for name in ("first token", "between tokens", "request")]
    rows: list[list[str]] = []
    for result in results:
        times = (result.time_to_first_token, result.inter_token_latency, result.request_latency)
        rows.append(
            [
                "inf" if result.rate is None else f"{result.rate:g}",
                f"{result.answered}/{result.requests}",
                f"{result.tokens_per_second:.1f}",
                f"{result.requests_per_second:.2f}",
                *(" / ".join(_milliseconds(value) for value in found.values()) or "-" for found in times),
            ]
        )
    lines = aligned(head, rows, right=head[:4])
    for result in results:
        for code, count in result.failed.items():
            lines.append(f"rate {result.rate or math.inf:g}: {count} failed with {code}")
    return lines


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds >= 1e-3 else f"{1000 * seconds:.2f}"


def draw(results: Sequence[LoadResult], path: Path) -> None:
    """Writes a picture of load against latency, with the throughput that was reached.

    Raises:
        InputError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to load
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from None
    figure: Any = Figure(figsize=(8, 9), layout="constrained")
    FigureCanvasAgg(figure)
    shown = [result for result in results if result.answered]
    names = ["all at once" if result.rate is None else f"{result.rate:g}" for result in shown]
    axes = figure.subplots(3, 1, sharex=True)
    panels = (("time to first token, ms", "time_to_first_token"), ("between tokens, ms", "inter_token_latency"))
    for axis, (label, name) in zip(axes, panels, strict=False):
        for percent in ("p50", "p95", "p99"):
            values = [1000 * getattr(result, name).get(percent, math.nan) for result in shown]
            axis.plot(names, values, marker="o", label=percent)
        axis.set_ylabel(label)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[2].plot(names, [result.tokens_per_second for result in shown], marker="o", color="#66aa55")
    axes[2].set_ylabel("tokens drawn a second")
    axes[2].set_xlabel("requests a second")
    axes[2].grid(alpha=0.3)
    figure.savefig(path, dpi=120)
