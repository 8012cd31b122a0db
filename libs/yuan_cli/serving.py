"""The commands on served models: their arguments and help. Each calls one function elsewhere."""

from typing import Annotated

import typer

from yuan_cli.completion import complete_model
from yuan_cli.options import ClusterOption, JsonOption, cluster_of
from yuan_events import InputError

GENERATE_HELP = """Let a model go on from a prompt; prints the continuation only.

With a prompt alone, the model that the stack serves. With a model before it: the one that the stack serves under
that name, or else a model artifact or a folder with one, which is loaded here and now.

\b
  yuan generate "def main(" --stream
  yuan generate demo "def main(" --stream
  yuan generate ./models/mine "def main(" --temperature 0.8 --seed 7
"""

DEPLOY_HELP = """Let the stack serve a model, now and whenever it starts; in place of what it serves under that name.

\b
  yuan deploy demo
  yuan deploy demo@2 --name canary --dtype bf16
  yuan deploy demo --adapter answers=demo-answers    then: yuan generate demo:answers "…"
"""

UNDEPLOY_HELP = """Let the stack serve a model no more, neither now nor when it starts; requests that run are finished.

\b
  yuan undeploy demo
"""

CHAT_HELP = """Talk with a model that the stack serves. /reset forgets what was said, /exit or Ctrl-D leaves,
Ctrl-C stops an answer.

\b
  yuan chat
  yuan chat demo --temperature 0.7
"""

MaxTokens = Annotated[int | None, typer.Option(help="New tokens at most.")]
Temperature = Annotated[float | None, typer.Option(help="0: always the likeliest token; higher: more varied.")]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only; 0: from all.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest that reach this probability.")]
Seed = Annotated[int | None, typer.Option(help="The same seed, the same text.")]


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""

    @app.command("generate", help=GENERATE_HELP)
    def generate_command(
        context: typer.Context,
        words: Annotated[
            list[str],
            typer.Argument(metavar="[MODEL] PROMPT", help="The text to go on from.", autocompletion=complete_model),
        ],
        *,
        stream: Annotated[bool, typer.Option("--stream", help="Print the text while it is generated.")] = False,
        max_tokens: MaxTokens = None,
        temperature: Temperature = None,
        top_k: TopK = None,
        top_p: TopP = None,
        seed: Seed = None,
        tokenizer: Annotated[
            str | None, typer.Option(metavar="NAME", help="A tokenizer artifact or folder, if the model has none.")
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print JSON; with --stream: events as JSON lines.")] = False,
        cluster: ClusterOption = None,
    ) -> int:
        from yuan_cli.generating import generate  # noqa: PLC0415

        if len(words) > 2:
            raise InputError(f"yuan generate: expected [MODEL] PROMPT, found {len(words)} words; quote the prompt")
        options = {
            "max-tokens": max_tokens,
            "temperature": temperature,
            "top-k": top_k,
            "top-p": top_p,
            "seed": seed,
            "tokenizer": tokenizer,
        }
        model = words[0] if len(words) == 2 else None
        flags = {"stream": stream, "json": json}
        return generate(model, words[-1], options, flags, cluster_of(context, cluster))

    @app.command("deploy", help=DEPLOY_HELP)
    def deploy_command(
        context: typer.Context,
        model: Annotated[
            str,
            typer.Argument(metavar="MODEL", help="A model artifact, NAME[@VERSION].", autocompletion=complete_model),
        ],
        *,
        name: Annotated[str | None, typer.Option(help="To ask for it by; default: the artifact's.")] = None,
        dtype: Annotated[str | None, typer.Option(help="fp32, bf16, int8; default: fp32 on a processor.")] = None,
        max_batch: Annotated[int | None, typer.Option(help="Requests that run at once.")] = None,
        tensor: Annotated[int | None, typer.Option(help="Processes that share its matrices; default 1.")] = None,
        adapter: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME=MODEL", help="LoRA additions to ask for by NAME, of a fine-tuned MODEL."),
        ] = None,
        prompt_lookup: Annotated[
            int | None, typer.Option(help="Tokens a step that are guessed from the text before; default 0.")
        ] = None,
        wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is served.")] = True,
        print_manifest: Annotated[
            bool, typer.Option("--print-manifest", help="Only print the manifest that this comes to.")
        ] = False,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.deploying import deploy_model  # noqa: PLC0415

        return deploy_model(
            model,
            {
                "name": name,
                "dtype": dtype,
                "max_batch": max_batch,
                "tensor": tensor,
                "prompt_lookup": prompt_lookup,
            },
            adapter or [],
            cluster_of(context, cluster),
            wait=wait,
            as_json=json,
            print_manifest=print_manifest,
        )

    @app.command("undeploy", help=UNDEPLOY_HELP)
    def undeploy_command(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME", help="That it is served under; `yuan status` has them.")],
        *,
        cluster: ClusterOption = None,
    ) -> int:
        from yuan_cli.deploying import undeploy_model  # noqa: PLC0415

        return undeploy_model(name, cluster_of(context, cluster))

    @app.command("chat", help=CHAT_HELP)
    def chat_command(
        context: typer.Context,
        model: Annotated[
            str, typer.Argument(metavar="[MODEL]", help="Name that it is served under; default: the only one.")
        ] = "",
        *,
        max_tokens: MaxTokens = 256,
        temperature: Temperature = 0.7,
        top_k: TopK = None,
        top_p: TopP = None,
        seed: Seed = None,
        cluster: ClusterOption = None,
    ) -> int:
        from yuan_cli.chatting import SEPARATOR, Conversation, chat  # noqa: PLC0415
        from yuan_cli.inference import sampling_of, served_model  # noqa: PLC0415
        from yuan_manifest import load_cluster  # noqa: PLC0415

        options = {"max-tokens": max_tokens, "temperature": temperature, "top-k": top_k, "top-p": top_p, "seed": seed}
        sampling = sampling_of(options)
        if seed is None:
            sampling.ClearField("seed")
        # A model that goes on to the next question is cut off there.
        sampling.stop.append(SEPARATOR)
        served = served_model(load_cluster(cluster_of(context, cluster)).cluster, model)
        with served:
            return chat(Conversation(served, sampling))

    del generate_command, deploy_command, chat_command  # typer keeps them
