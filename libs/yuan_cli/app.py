"""The commands: their arguments and help. Each calls one function elsewhere and prints what comes back.

Commands import what they need when they run, so that help and completion are there at once.
"""

import difflib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from yuan_cli.bench_command import add_commands as add_bench_command
from yuan_cli.completion import complete_artifact_or_job, complete_kind
from yuan_cli.convert_command import add_commands as add_convert_commands
from yuan_cli.data_command import add_commands as add_data_commands
from yuan_cli.evaluate_command import add_commands as add_evaluate_command
from yuan_cli.help import COMMAND_NAMES, HELP, RUN_HELP, SHOW_HELP
from yuan_cli.job_commands import add_commands as add_job_commands
from yuan_cli.keeping import add_commands as add_keeping_commands
from yuan_cli.options import (
    ClusterOption,
    ForceOption,
    Global,
    JsonOption,
    ManifestArgument,
    OverridesArgument,
    cluster_of,
)
from yuan_cli.plan_command import add_commands as add_plan_command
from yuan_cli.request_command import add_commands as add_request_commands
from yuan_cli.schedules import add_commands as add_schedule_commands
from yuan_cli.security_commands import add_commands as add_security_commands
from yuan_cli.serving import add_commands as add_serving_commands
from yuan_cli.stack import add_commands
from yuan_events import InputError

app = typer.Typer(
    name="yuan",
    help=HELP,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def run(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code.

    Raises:
        YuanError: what ended a command; also for a command or option that does not exist.
    """
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="yuan", standalone_mode=False)
    except typer.TyperException as error:
        raise InputError(_usage_line(error)) from None
    except typer.Abort:
        return 130
    return code if isinstance(code, int) else 0


@app.callback()
def top(context: typer.Context, cluster: ClusterOption = None) -> None:
    """Keeps what was given before the command; without a command, shows the help."""
    context.obj = Global(cluster)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("run", help=RUN_HELP)
def run_command(
    context: typer.Context,
    manifest: ManifestArgument,
    overrides: OverridesArgument = None,
    *,
    cluster: ClusterOption = None,
    force: ForceOption = False,
    print_manifest: Annotated[
        bool, typer.Option("--print-manifest", help="Only print the manifest that this comes to.")
    ] = False,
) -> int:
    """Runs a manifest in the foreground."""
    if print_manifest:
        from yuan_cli.manifests import print_resolved  # noqa: PLC0415

        return print_resolved(manifest, overrides or [], cluster_of(context, cluster))
    from yuan_stack import run_manifest  # noqa: PLC0415

    return run_manifest(manifest, overrides or [], cluster_of(context, cluster), force=force)


@app.command(help="Check a manifest without running it, and say what it comes to.")
def validate(
    context: typer.Context,
    manifest: ManifestArgument,
    overrides: OverridesArgument = None,
    *,
    cluster: ClusterOption = None,
    json: JsonOption = False,
    render: Annotated[
        bool,
        typer.Option("--render", help="Only print what its launcher would be handed: a script, a manifest."),
    ] = False,
) -> int:
    """Checks a manifest."""
    from yuan_cli.manifests import print_rendered, print_validated  # noqa: PLC0415

    if render:
        return print_rendered(manifest, overrides or [], cluster_of(context, cluster))
    return print_validated(manifest, overrides or [], cluster_of(context, cluster), as_json=json)


@app.command(help="List what has been made: tokenizers, datasets, models, reports.")
def artifacts(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="Only these: tokenizer, dataset, model, report, requests.",
            autocompletion=complete_kind,
        ),
    ] = None,
    *,
    cluster: ClusterOption = None,
    json: JsonOption = False,
) -> int:
    """Lists artifacts."""
    from yuan_cli.artifacts import print_listing  # noqa: PLC0415

    return print_listing(kind, cluster_of(context, cluster), as_json=json)


@app.command(help=SHOW_HELP)
def show(
    context: typer.Context,
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT|JOB",
            help="[KIND/]NAME[@VERSION], as in model/demo@2; or the id of a job.",
            autocompletion=complete_artifact_or_job,
        ),
    ],
    *,
    cluster: ClusterOption = None,
    json: JsonOption = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its hash.")] = False,
) -> int:
    """Prints one artifact or job."""
    from yuan_cli.artifacts import print_artifact_or_job  # noqa: PLC0415

    return print_artifact_or_job(artifact, cluster_of(context, cluster), as_json=json, verify=verify)


@app.command(help="Print the version.")
def version() -> int:
    """Prints the version."""
    from importlib.metadata import version as version_of  # noqa: PLC0415

    typer.echo(f"yuan-stack {version_of('yuan-stack')}")
    return 0


add_plan_command(app)
add_bench_command(app)
add_data_commands(app)
add_job_commands(app)
add_keeping_commands(app)
add_schedule_commands(app)
add_request_commands(app)
add_serving_commands(app)
add_security_commands(app)
add_evaluate_command(app)
add_convert_commands(app)
add_commands(app)


def _usage_line(error: typer.TyperException) -> str:
    """Returns a mistake in arguments as one line with its mend."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "yuan"
    text = error.format_message().rstrip(".")
    option, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    unknown = "No such command "
    if text.startswith(unknown):
        name = text.removeprefix(unknown).strip("'\"")
        names = COMMAND_NAMES if path == "yuan" or context is None else tuple(context.command.commands)
        matches = difflib.get_close_matches(name, names, n=1)
        mend = f"did you mean {matches[0]}?" if matches else f"expected one of {', '.join(names)}"
        return f"{path}: no command {name!r}; {mend}"
    if option and near is not None:
        mend = f"did you mean {near[0]}?" if near else f"see {path} --help"
        return f"{path}: no option {option}; {mend}"
    return f"{path}: {text[:1].lower()}{text[1:]}; see {path} --help"
