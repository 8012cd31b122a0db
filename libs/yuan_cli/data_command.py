"""`yuan data`: its arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.completion import complete_dataset
from yuan_cli.options import ClusterOption, JsonOption, cluster_of

DATA_HELP = """Look at a dataset: what is in it, some of its documents, the samples that training reads.

\b
  yuan data show stdlib
  yuan data sample stdlib --n 5 --packed
  yuan data report stdlib --output stdlib.html
"""

DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="NAME[@VERSION]; or a path (with a /) of a folder with .bin and .idx, or of one such pair.",
        autocompletion=complete_dataset,
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="That cut it, where DATASET is a path: without one its text is not shown.",
        show_default=False,
    ),
]  # fmt: skip
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the drawing.")]
LengthOption = Annotated[int, typer.Option(min=1, max=65536, metavar="TOKENS", help="Of a packed sample.")]


def add_commands(app: typer.Typer) -> None:
    """Adds `yuan data`."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
    data = typer.Typer(help=DATA_HELP, invoke_without_command=True, rich_markup_mode=None, context_settings=settings)

    @data.callback()
    def top(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    app.add_typer(data, name="data")

    @data.command(
        help="Show what is in a dataset: sources, counts, lengths, languages, what cleaning dropped, documents."
    )
    def show(
        context: typer.Context,
        dataset: DatasetArgument,
        *,
        cluster: ClusterOption = None,
        tokenizer: TokenizerOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.datasets import print_dataset  # noqa: PLC0415

        return print_dataset(dataset, cluster_of(context, cluster), tokenizer, as_json=json)

    @data.command(help="Show documents of a dataset, or with --packed the samples that training reads, token by token.")
    def sample(
        context: typer.Context,
        dataset: DatasetArgument,
        *,
        n: Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="How many.")] = 5,
        packed: Annotated[
            bool, typer.Option("--packed", help="Samples: tokens, where documents begin, what counts in the loss.")
        ] = False,
        sequence_length: LengthOption = 256,
        max_tokens: Annotated[
            int, typer.Option(min=1, max=65536, metavar="TOKENS", help="Shown of a document at most.")
        ] = 256,
        seed: SeedOption = 0,
        cluster: ClusterOption = None,
        tokenizer: TokenizerOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.datasets import Wanted, print_samples  # noqa: PLC0415

        wanted = Wanted(n, seed, max_tokens, sequence_length, packed)
        return print_samples(dataset, cluster_of(context, cluster), tokenizer, wanted, as_json=json)

    @data.command(help="Write an HTML page about a dataset, with charts.")
    def report(
        context: typer.Context,
        dataset: DatasetArgument,
        *,
        output: Annotated[
            Path | None,
            typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.html here.", show_default=False),
        ] = None,
        sequence_length: LengthOption = 256,
        seed: SeedOption = 0,
        cluster: ClusterOption = None,
        tokenizer: TokenizerOption = None,
    ) -> int:
        from yuan_cli.datasets import write_report  # noqa: PLC0415

        return write_report(dataset, cluster_of(context, cluster), tokenizer, output, sequence_length, seed)

    del top, show, sample, report  # typer keeps them
