"""The commands on checkpoints: their arguments and help. Each calls one function elsewhere."""

from typing import Annotated

import typer

from yuan_cli.completion import complete_model
from yuan_cli.options import ClusterOption, ForceOption, JsonOption, cluster_of

CONVERT_HELP = """Write a checkpoint anew: in another layout, division, number format, or with a LoRA adapter merged in.

SOURCE is a folder (native, Hugging Face, the original's Megatron layout, a training state) or a model artifact; its
layout is found out. It is a convert job: in the foreground, or on the stack's queue with --submit.

\b
  yuan convert ./yuan-2b --to native --out yuan-2b
  yuan convert ./checkpoints --to megatron --tensor 2 --stages 1,3 --out ./divided
  yuan convert demo --to huggingface --dtype bf16 --out ./demo-hf
  yuan convert configs/jobs/pretrain-102b.yaml --to megatron --tensor 8 --dry-run
"""

INSPECT_HELP = """Say what a checkpoint is: layout, division, step, numbers, parameters by part, hashes, tensors.

\b
  yuan inspect ./checkpoints
  yuan inspect demo@2 --json
  yuan inspect --diff ./yuan-2b-hf demo
"""


def add_commands(app: typer.Typer) -> None:
    """Adds `yuan convert` and `yuan inspect`."""

    @app.command("convert", help=CONVERT_HELP)
    def convert_command(
        context: typer.Context,
        source: Annotated[
            str, typer.Argument(metavar="SOURCE", help="A folder or a model artifact.", autocompletion=complete_model)
        ],
        *,
        to: Annotated[str, typer.Option(metavar="native|megatron|huggingface", help="Layout.")] = "native",
        out: Annotated[
            str | None,
            typer.Option(metavar="PATH|NAME", help="A new folder (with a / in it), or a model artifact's name."),
        ] = None,
        tensor: Annotated[int, typer.Option(help="Tensor ranks (megatron).")] = 1,
        stages: Annotated[
            str | None,
            typer.Option(metavar="1,3", help="Layers per pipeline stage, or a number of even stages (megatron)."),
        ] = None,
        dtype: Annotated[
            str | None, typer.Option(metavar="fp32|bf16|fp16|int8", help="Number format; default: as stored.")
        ] = None,
        iteration: Annotated[
            str | None, typer.Option(metavar="N|release", help="What the tracker says (megatron).")
        ] = None,
        vocab_size: Annotated[int | None, typer.Option(help="Real rows of the embedding: others are cut off.")] = None,
        vocab_multiple: Annotated[int, typer.Option(help="Rows are padded to a multiple of it (megatron).")] = 128,
        weights: Annotated[
            str, typer.Option("--format", metavar="safetensors|bin", help="Files (huggingface).")
        ] = "safetensors",
        shard_gigabytes: Annotated[float, typer.Option(help="A new file is begun beyond (huggingface).")] = 5.0,
        adapter: Annotated[str | None, typer.Option(metavar="PATH|NAME", help="LoRA additions to merge in.")] = None,
        strict: Annotated[
            bool, typer.Option("--strict", help="Refuse unknown tensors and copies that differ.")
        ] = False,
        verify: Annotated[
            bool | None,
            typer.Option(
                "--verify/--no-verify",
                help="Run the same tokens through both sides and compare; default: where it fits into memory.",
                show_default=False,
            ),
        ] = None,
        submit: Annotated[bool, typer.Option("--submit", help="On the stack's queue instead of here.")] = False,
        watch: Annotated[bool, typer.Option("--watch", help="With --submit: follow it to its end.")] = False,
        force: ForceOption = False,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Say files, bytes, memory and time; SOURCE may be a config or manifest."),
        ] = False,
        source_tensor: Annotated[int, typer.Option(help="With --dry-run of a config: its tensor size.")] = 1,
        source_stages: Annotated[
            str, typer.Option(metavar="32", help="With --dry-run of a config: its stages.", show_default=False)
        ] = "",
        print_manifest: Annotated[
            bool, typer.Option("--print-manifest", help="Only print the manifest that this comes to.")
        ] = False,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.converting import ConvertOptions, convert  # noqa: PLC0415

        target = {
            "layout": to,
            "dtype": dtype,
            "tensor": tensor,
            "stages": stages,
            "iteration": iteration,
            "vocab_size": vocab_size,
            "vocab_multiple": vocab_multiple,
            "format": weights,
            "shard_gigabytes": shard_gigabytes,
        }
        options = ConvertOptions(
            adapter=adapter,
            flags={"strict": strict, "verify": verify},
            submit=submit,
            watch=watch,
            force=force,
            dry_run=dry_run,
            print_manifest=print_manifest,
            as_json=json,
            source=(source_tensor, source_stages),
        )
        return convert(source, out, target, cluster_of(context, cluster), options)

    @app.command("inspect", help=INSPECT_HELP)
    def inspect_command(
        context: typer.Context,
        checkpoint: Annotated[
            list[str],
            typer.Argument(metavar="PATH|ARTIFACT", help="With --diff: two of them.", autocompletion=complete_model),
        ],
        *,
        diff: Annotated[bool, typer.Option("--diff", help="Say in which tensors two differ, and by how much.")] = False,
        full: Annotated[bool, typer.Option("--full", help="Read all values, also of more than 2 GB.")] = False,
        headers: Annotated[bool, typer.Option("--headers", help="Read headers alone.")] = False,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.converting import inspect  # noqa: PLC0415

        given = {"--full": full, "--headers": headers, "--json": json}
        flags = [name for name, is_set in given.items() if is_set]
        return inspect(checkpoint, flags, cluster_of(context, cluster), diff=diff)

    del convert_command, inspect_command  # typer keeps them
