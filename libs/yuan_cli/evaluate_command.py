"""The command `yuan evaluate`: its arguments and help. What it does is in `evaluating.py`."""

from typing import Annotated

import typer

from yuan_cli.completion import complete_model
from yuan_cli.options import ClusterOption, ForceOption, JsonOption, cluster_of
from yuan_events import InputError

EVALUATE_HELP = """Score a model on benchmarks, and write a report with every prompt, answer and verdict.

With a stack the job goes on its queue, and the model is served by it; without one all runs here. Programs that the
model writes run in a sandbox. Data: a folder or URL with the benchmarks' files, as --list names them.

\b
  yuan evaluate demo --suite yuan --data ../shared/data
  yuan evaluate demo --suite gsm8k,mathqa --data s3://bench/data --profile strict --samples 8
  yuan evaluate demo --suite truthfulqa_mc --data ../shared/data --likelihood --compare demo-truthfulqa_mc@1
  yuan evaluate demo --suite perplexity --dataset stdlib
  yuan evaluate --list; yuan evaluate --leaderboard
"""


def add_commands(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("evaluate", help=EVALUATE_HELP)
    def evaluate_command(
        context: typer.Context,
        words: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="MODEL [KEY=VALUE]…",
                help="A model artifact, NAME[@VERSION]; values put over the manifest's.",
                autocompletion=complete_model,
                show_default=False,
            ),
        ] = None,
        *,
        suite: Annotated[str, typer.Option(metavar="TASK[,TASK]…", help="What is measured; yuan: the five.")] = "yuan",
        data: Annotated[str | None, typer.Option(metavar="FOLDER|URL", help="The benchmarks' files.")] = None,
        dataset: Annotated[str | None, typer.Option(metavar="NAME", help="For perplexity: a dataset.")] = None,
        profile: Annotated[str | None, typer.Option(help="yuan: as the original asks and scores; strict.")] = None,
        likelihood: Annotated[bool, typer.Option("--likelihood", help="Choose answers by likelihood.")] = False,
        few_shot: Annotated[int | None, typer.Option(help="Worked examples before each question.")] = None,
        samples: Annotated[int | None, typer.Option(help="Answers to each question; they are voted on.")] = None,
        unit_tests: Annotated[int | None, typer.Option(help="Choose programs by tests that the model writes.")] = None,
        limit: Annotated[int | None, typer.Option(help="The first items of each task alone.")] = None,
        temperature: Annotated[float | None, typer.Option(help="0: always the likeliest token.")] = None,
        max_tokens: Annotated[int | None, typer.Option(help="New tokens of an answer at most.")] = None,
        seed: Annotated[int | None, typer.Option(help="Of samples, option orders, few-shot examples.")] = None,
        compare: Annotated[str | None, typer.Option(metavar="REPORT", help="A report to compare with.")] = None,
        report: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the report.")] = None,
        unsafe: Annotated[
            bool, typer.Option("--unsafe", help="Run programs unconfined where there is no sandbox.")
        ] = False,
        list_: Annotated[bool, typer.Option("--list", help="Only list the tasks.")] = False,
        leaderboard: Annotated[bool, typer.Option("--leaderboard", help="Only show how models stand.")] = False,
        foreground: Annotated[bool, typer.Option("--foreground", help="Run here, also where a stack runs.")] = False,
        wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done.")] = True,
        print_manifest: Annotated[
            bool, typer.Option("--print-manifest", help="Only print the manifest that this comes to.")
        ] = False,
        force: ForceOption = False,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.evaluating import evaluate_model, folder_or_url, list_tasks, print_leaderboard  # noqa: PLC0415

        place = cluster_of(context, cluster)
        if list_:
            return list_tasks(as_json=json)
        if leaderboard:
            return print_leaderboard(place, as_json=json)
        if not words:
            raise InputError("yuan evaluate: name a model; see yuan evaluate --help")
        section = {
            "profile": profile,
            "answering": "likelihood" if likelihood else None,
            "few_shot": few_shot,
            "samples": samples,
            "unit_tests": unit_tests,
            "limit": limit,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
            "sandbox": {"unsafe": True} if unsafe else None,
        }
        return evaluate_model(
            words[0],
            {"data": folder_or_url(data), "dataset": dataset, "report": compare},
            [name.strip() for name in suite.split(",") if name.strip()] or ["yuan"],
            section,
            words[1:],
            cluster_path=place,
            report=report,
            flags={
                "print_manifest": print_manifest,
                "foreground": foreground,
                "wait": wait,
                "force": force,
                "json": json,
            },
        )

    del evaluate_command  # typer keeps it
