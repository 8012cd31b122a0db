"""`yuan bench`: its arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.options import ClusterOption, JsonOption, cluster_of

SERVE_HELP = """Drive the stack's inference service with a load, and say how it bears it.

Requests come as a Poisson process at each --rate in turn; prompts are lines of a file or documents of a dataset.
Prints throughput, time to first token and time between tokens (median, 95th and 99th percentile).

\b
  yuan bench serve --dataset stdlib --rate 1,2,4,8 --plot load.png
  yuan bench serve demo --prompts prompts.txt --rate inf --requests 200 --max-tokens 128 --json
"""


def add_commands(app: typer.Typer) -> None:
    """Adds `yuan bench`."""
    bench = typer.Typer(help="Measure how the stack does under load.", no_args_is_help=True)
    app.add_typer(bench, name="bench")

    @bench.callback()
    def top() -> None:
        """Keeps `serve` a command of its own."""

    @bench.command("serve", help=SERVE_HELP)
    def serve_command(
        context: typer.Context,
        model: Annotated[
            str, typer.Argument(metavar="[MODEL]", help="Name that it is served under; default: the only one.")
        ] = "",
        *,
        prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Prompts, one a line.")] = None,
        dataset: Annotated[
            str | None, typer.Option(metavar="NAME", help="Prompts are the beginnings of this dataset's documents.")
        ] = None,
        input_tokens: Annotated[int, typer.Option(help="Of a dataset's document that are asked, at most.")] = 64,
        rate: Annotated[str, typer.Option(help="Requests a second; several with commas; inf: all at once.")] = "1,2,4",
        requests: Annotated[int, typer.Option(help="Requests at each rate.")] = 50,
        max_tokens: Annotated[int, typer.Option(help="New tokens of each answer.")] = 64,
        temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
        ignore_eos: Annotated[
            bool, typer.Option("--ignore-eos/--stop-at-eos", help="Every answer has all its tokens.")
        ] = True,
        seed: Annotated[int, typer.Option(help="Of arrivals and of the prompts that are drawn.")] = 1,
        plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw load against latency.")] = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.benching import ServeBench, bench_serve  # noqa: PLC0415

        wanted = ServeBench(
            model=model,
            prompts=prompts,
            dataset=dataset,
            input_tokens=input_tokens,
            rates=rate,
            requests=requests,
            max_tokens=max_tokens,
            temperature=temperature,
            ignore_eos=ignore_eos,
            seed=seed,
            plot=plot,
        )
        return bench_serve(wanted, cluster_of(context, cluster), as_json=json)

    del serve_command, top  # typer keeps them
