"""The commands: their arguments and help. Each calls one function elsewhere and prints what comes back.

Commands import what they need when they run, so that help and completion are there at once.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from yuan_cli.completion import complete_artifact, complete_kind, complete_model
from yuan_cli.help import COMMAND_NAMES, GENERATE_HELP, HELP, RUN_HELP, SHOW_HELP
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


@dataclass(frozen=True)
class _Global:
    """What was given before the command."""

    cluster: Path | None


ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        "-f",
        metavar="FILE",
        help="Where to run: a cluster manifest. Default: $YUAN_CLUSTER, then "
        "configs/clusters/local.yaml, then this machine and ~/.yuan.",
        show_default=False,
    ),
]
ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="What to run: a job or a pipeline.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]…", help="Values put over the manifest's: train.steps=50.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


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
    context.obj = _Global(cluster)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("run", help=RUN_HELP)
def run_command(
    context: typer.Context,
    manifest: ManifestArgument,
    overrides: OverridesArgument = None,
    *,
    cluster: ClusterOption = None,
    force: Annotated[bool, typer.Option("--force", help="Do it anew, even if the same was done before.")] = False,
    print_manifest: Annotated[
        bool, typer.Option("--print-manifest", help="Only print the manifest that this comes to.")
    ] = False,
) -> int:
    """Runs a manifest in the foreground."""
    if print_manifest:
        from yuan_cli.manifests import print_resolved  # noqa: PLC0415

        return print_resolved(manifest, overrides or [], _cluster(context, cluster))
    from yuan_stack import run_manifest  # noqa: PLC0415

    return run_manifest(manifest, overrides or [], _cluster(context, cluster), force=force)


@app.command(help="Check a manifest without running it, and say what it comes to.")
def validate(
    context: typer.Context,
    manifest: ManifestArgument,
    overrides: OverridesArgument = None,
    *,
    cluster: ClusterOption = None,
    json: JsonOption = False,
) -> int:
    """Checks a manifest."""
    from yuan_cli.manifests import print_validated  # noqa: PLC0415

    return print_validated(manifest, overrides or [], _cluster(context, cluster), as_json=json)


@app.command(help="List what has been made: tokenizers, datasets, models, reports.")
def artifacts(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="Only these: tokenizer, dataset, model, report.", autocompletion=complete_kind
        ),
    ] = None,
    *,
    cluster: ClusterOption = None,
    json: JsonOption = False,
) -> int:
    """Lists artifacts."""
    from yuan_cli.artifacts import print_listing  # noqa: PLC0415

    return print_listing(kind, _cluster(context, cluster), as_json=json)


@app.command(help=SHOW_HELP)
def show(
    context: typer.Context,
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT", help="[KIND/]NAME[@VERSION]: model/demo@2", autocompletion=complete_artifact
        ),
    ],
    *,
    cluster: ClusterOption = None,
    json: JsonOption = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its hash.")] = False,
) -> int:
    """Prints one artifact."""
    from yuan_cli.artifacts import print_artifact  # noqa: PLC0415

    return print_artifact(artifact, _cluster(context, cluster), as_json=json, verify=verify)


@app.command(help=GENERATE_HELP)
def generate(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model artifact, or a folder with one.", autocompletion=complete_model),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to go on from.")],
    *,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text while it is generated.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="New tokens at most.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: always the likeliest token; higher: more varied.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only; 0: from all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest that reach this probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="A tokenizer artifact or folder, if the model has none.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; with --stream: events as JSON lines.")] = False,
    cluster: ClusterOption = None,
) -> int:
    """Generates text in the foreground."""
    from yuan_cli.generating import generate_in_foreground  # noqa: PLC0415

    options = {
        "max-tokens": max_tokens,
        "temperature": temperature,
        "top-k": top_k,
        "top-p": top_p,
        "seed": seed,
        "tokenizer": tokenizer,
    }
    flags = [flag for flag, given in (("--stream", stream), ("--json", json)) if given]
    return generate_in_foreground(model, prompt, options, flags, _cluster(context, cluster))


@app.command(help="Print the version.")
def version() -> int:
    """Prints the version."""
    from importlib.metadata import version as version_of  # noqa: PLC0415

    typer.echo(f"yuan-stack {version_of('yuan-stack')}")
    return 0


def _cluster(context: typer.Context, own: Path | None) -> Path | None:
    """Returns the cluster file given to the command, else the one given before it."""
    given = context.obj
    return own if own is not None else given.cluster if isinstance(given, _Global) else None


def _usage_line(error: typer.TyperException) -> str:
    """Returns a mistake in arguments as one line with its mend."""
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "yuan"
    text = error.format_message().rstrip(".")
    option, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    unknown = "No such command "
    if text.startswith(unknown):
        name = text.removeprefix(unknown).strip("'\"")
        matches = difflib.get_close_matches(name, COMMAND_NAMES, n=1)
        mend = f"did you mean {matches[0]}?" if matches else f"expected one of {', '.join(COMMAND_NAMES)}"
        return f"yuan: no command {name!r}; {mend}"
    if option and near is not None:
        mend = f"did you mean {near[0]}?" if near else f"see {path} --help"
        return f"{path}: no option {option}; {mend}"
    return f"{path}: {text[:1].lower()}{text[1:]}; see {path} --help"
