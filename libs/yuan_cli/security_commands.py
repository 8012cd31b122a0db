"""`yuan token` and `yuan audit`: their arguments and help. Each calls one function elsewhere."""

from typing import Annotated

import typer

from yuan_cli.options import ClusterOption, JsonOption, cluster_of

ISSUE_HELP = """Who may call the stack: tokens with a name, a role, an end and limits. Nothing needs a restart.

\b
  viewer    asks models, reads jobs and artifacts
  operator  also submits, cancels and schedules jobs, loads models
  admin     everything; the stack's own token (cluster.security.token_file) is one
\b
  yuan token new alice --role operator --expires 90d > alice.token
  yuan token list; yuan token revoke alice
  yuan token rotate; yuan token rotate --finish       the stack's own
"""

NEW_HELP = """Make a token and print it, this once; the stack keeps its hash.

A name may have several at once: hand out the new one, then revoke the old one by its id, or let it end by itself.

\b
  yuan token new alice --role viewer --expires 2027-01-31
  yuan token new alice --others-end 1d                alice's other tokens hold for a day
"""

ROTATE_HELP = """Give the stack a new token of its own; the old one goes on to hold until --finish.

The services and whoever reads the file bring the new one at once. Copies elsewhere are renewed before --finish.
"""

AUDIT_HELP = """Who did what: calls that change something, and calls that were refused.

\b
  yuan audit                                          the last 50 lines
  yuan audit --subject alice --since 7d
  yuan audit --refused --method LoadModel --json
"""

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of whoever gets it.")]
LimitOption = Annotated[int | None, typer.Option(min=1, metavar="N", show_default=False)]


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
    token = typer.Typer(help=ISSUE_HELP, invoke_without_command=True, rich_markup_mode=None, context_settings=settings)

    @token.callback()
    def top(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    app.add_typer(token, name="token")

    @token.command(help=NEW_HELP)
    def new(
        context: typer.Context,
        name: NameArgument,
        *,
        role: Annotated[
            str | None,
            typer.Option(
                metavar="viewer|operator|admin",
                help="What it allows; default: that of NAME's newest token, else viewer.",
                show_default=False,
            ),
        ] = None,
        expires: Annotated[
            str | None,
            typer.Option(metavar="WHEN", help="12h, 90d, or a day like 2027-01-31 (UTC).", show_default=False),
        ] = None,
        others_end: Annotated[
            str | None,
            typer.Option(metavar="WHEN", help="When NAME's other tokens end; as --expires.", show_default=False),
        ] = None,
        requests_per_minute: LimitOption = None,
        tokens_per_minute: LimitOption = None,
        concurrent_requests: LimitOption = None,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.tokens import issue  # noqa: PLC0415 - loads gRPC

        limits = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrent_requests": concurrent_requests,
        }
        place = cluster_of(context, cluster)
        return issue(name, place, role=role, expires=expires, others_end=others_end, limits=limits, as_json=json)

    @token.command("list", help="List the tokens; none of their secrets.")
    def list_command(context: typer.Context, *, cluster: ClusterOption = None, json: JsonOption = False) -> int:
        from yuan_cli.tokens import print_tokens  # noqa: PLC0415 - as above

        return print_tokens(cluster_of(context, cluster), as_json=json)

    @token.command(help="Take back all tokens of a name, or the one with an id; the next call with it is refused.")
    def revoke(
        context: typer.Context,
        which: Annotated[str, typer.Argument(metavar="NAME|ID", help="As `yuan token list` has them.")],
        *,
        cluster: ClusterOption = None,
    ) -> int:
        from yuan_cli.tokens import revoke  # noqa: PLC0415 - as above

        return revoke(which, cluster_of(context, cluster))

    @token.command(help=ROTATE_HELP)
    def rotate(
        context: typer.Context,
        *,
        finish: Annotated[bool, typer.Option("--finish", help="Take all but the newest back.")] = False,
        cluster: ClusterOption = None,
    ) -> int:
        from yuan_cli.tokens import rotate  # noqa: PLC0415 - as above

        return rotate(cluster_of(context, cluster), finish=finish)

    @app.command("audit", help=AUDIT_HELP)
    def audit_command(
        context: typer.Context,
        *,
        subject: Annotated[str, typer.Option(metavar="NAME", help="Only what they did.")] = "",
        method: Annotated[str, typer.Option(metavar="TEXT", help="Only methods with this in their name.")] = "",
        about: Annotated[str, typer.Option("--object", metavar="TEXT", help="Only on objects with this in.")] = "",
        refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
        since: Annotated[
            str | None, typer.Option(metavar="WHEN", help="12h, 7d, or a day like 2026-01-31.", show_default=False)
        ] = None,
        lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="The newest so many.")] = 50,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.auditing import Wanted, print_audit  # noqa: PLC0415 - as above

        wanted = Wanted(subject=subject, method=method, about=about, refused=refused, since=since)
        return print_audit(cluster_of(context, cluster), wanted, lines=lines, as_json=json)

    del top, new, list_command, revoke, rotate, audit_command  # typer keeps them
