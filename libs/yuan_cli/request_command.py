"""`yuan request`: the commands on teaching requests: their arguments and help. Each calls one function elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.options import ClusterOption, JsonOption, cluster_of

GROUP_HELP = """Ask for what a model should learn; review what was asked for; see what became of it.

\b
  yuan request new request.yaml          file it; without a file or options: questions in the terminal
  yuan request list; yuan request show ID
  yuan request accept ID --why "…"       an operator's review; yuan request reject ID --why "…"
  yuan schedule configs/pipelines/cotraining.yaml    the cycle that takes accepted requests up every month
"""

NEW_HELP = """File a request: in which scenario the model should do what, with a few inputs and outputs.

\b
  yuan request new request.yaml
  yuan request new --scenario "Chat about code" --behaviour "Answer with one line of Python" --author Ada \\
    --input "Import the module gzip." --output "import gzip" --input "Import json." --output "import json"
\b
request.yaml:
  scenario: Chat about code
  behaviour: Answer with one line of Python, nothing else.
  author: Ada
  examples:
    - {input: Import the module gzip., output: import gzip}
    - {input: Import the module json., output: import json}
"""

FileArgument = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="A YAML file; -: standard input.", show_default=False)
]
ScenarioOption = Annotated[str | None, typer.Option(metavar="TEXT", help="Where and when.", show_default=False)]
BehaviourOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What the model should do there.", show_default=False)
]
InputOption = Annotated[
    list[str] | None, typer.Option("--input", metavar="TEXT", help="Of an example; as many as you like.")
]
OutputOption = Annotated[
    list[str] | None, typer.Option("--output", metavar="TEXT", help="That is wanted, one for each --input.")
]
AuthorOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Who asks. Default: who calls.", show_default=False)
]
RequestArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A request's id, or as much of its beginning as it takes.")
]
ByOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Who calls, where the token is the stack's own. Default: your user.", show_default=False
    ),
]
WhyOption = Annotated[str, typer.Option(metavar="TEXT", help="For the author to read.", show_default=False)]


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
    group = typer.Typer(help=GROUP_HELP, invoke_without_command=True, rich_markup_mode=None, context_settings=settings)

    @group.callback()
    def top(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    app.add_typer(group, name="request")

    @group.command("new", help=NEW_HELP)
    def new_command(
        context: typer.Context,
        file: FileArgument = None,
        *,
        scenario: ScenarioOption = None,
        behaviour: BehaviourOption = None,
        inputs: InputOption = None,
        outputs: OutputOption = None,
        author: AuthorOption = None,
        by: ByOption = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.requesting import Given, file_new  # noqa: PLC0415 - all of this loads gRPC

        given = Given(file, scenario, behaviour, inputs or [], outputs or [], author)
        return file_new(given, by, cluster_of(context, cluster), as_json=json)

    @group.command("edit", help="Put another text in place of a request's, as `new` takes it; it is reviewed anew.")
    def edit_command(
        context: typer.Context,
        request: RequestArgument,
        file: FileArgument = None,
        *,
        scenario: ScenarioOption = None,
        behaviour: BehaviourOption = None,
        inputs: InputOption = None,
        outputs: OutputOption = None,
        author: AuthorOption = None,
        by: ByOption = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.requesting import Given, edit  # noqa: PLC0415

        given = Given(file, scenario, behaviour, inputs or [], outputs or [], author)
        return edit(request, given, by, cluster_of(context, cluster), as_json=json)

    @group.command("list", help="List requests, newest first.")
    def list_command(
        context: typer.Context,
        *,
        state: Annotated[
            list[str] | None,
            typer.Option(metavar="STATE", help="Only these: filed, accepted, rejected, in_cycle, answered."),
        ] = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.requesting import print_requests  # noqa: PLC0415

        return print_requests(state or [], cluster_of(context, cluster), as_json=json)

    @group.command("show", help="Print a request: what is asked for, its review, its answer, its history.")
    def show_command(
        context: typer.Context, request: RequestArgument, *, cluster: ClusterOption = None, json: JsonOption = False
    ) -> int:
        from yuan_cli.requesting import print_request  # noqa: PLC0415

        return print_request(request, cluster_of(context, cluster), as_json=json)

    @group.command("accept", help="Accept a request: the next cycle takes it up. For operators.")
    def accept_command(
        context: typer.Context,
        request: RequestArgument,
        *,
        why: WhyOption,
        by: ByOption = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.requesting import review  # noqa: PLC0415

        return review(request, by, cluster_of(context, cluster), accept=True, why=why, as_json=json)

    @group.command("reject", help="Reject a request. For operators.")
    def reject_command(
        context: typer.Context,
        request: RequestArgument,
        *,
        why: WhyOption,
        by: ByOption = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.requesting import review  # noqa: PLC0415

        return review(request, by, cluster_of(context, cluster), accept=False, why=why, as_json=json)

    del top, new_command, edit_command, list_command, show_command, accept_command, reject_command  # typer keeps them
