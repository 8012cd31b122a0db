"""`python -m yuan_inference generate MODEL PROMPT`: loads a model here and now, and prints what it adds to a prompt.

Only the continuation goes to stdout, so that it can be piped on; notes go to stderr.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from yuan_events import InputError, Text, event_to_json
from yuan_events.printing import without_controls
from yuan_inference.generation import Continuation, Prompt, continue_prompt, prepare
from yuan_inference.loaded import LoadedModel, load
from yuan_jobs.arguments import ArgumentParser
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.references import ArtifactNotFound
from yuan_manifest.loading import load_cluster
from yuan_manifest.schema import SamplingSection

_MARKS = {"model": "config.json", "tokenizer": "tokenizer.model"}
"""The file by which a folder is known to be of a kind."""


def generate_command(arguments: Sequence[str]) -> int:
    """Runs the subcommand and returns its exit code.

    Raises:
        InputError: if an argument, the model or the prompt is wrong.
    """
    options = _parser().parse_args(list(arguments))
    sampling = _sampling(options)
    loaded = _load(options.model, options.tokenizer, options.cluster)
    prompt = prepare(loaded, options.prompt, sampling.max_tokens)
    if prompt.note:
        sys.stderr.write(prompt.note + "\n")
    if options.json and options.stream:
        _stream_events(loaded, prompt, sampling)
    elif options.json:
        done = continue_prompt(loaded, prompt, sampling, _ignore)
        sys.stdout.write(json.dumps(asdict(done), ensure_ascii=False) + "\n")
    else:
        done = continue_prompt(loaded, prompt, sampling, _write if options.stream else _ignore)
        if not options.stream:
            _write(done.text)
        sys.stdout.write("\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="python -m yuan_inference generate", allow_abbrev=False, description=__doc__)
    defaults = SamplingSection()
    add = parser.add_argument
    add("model", help="a model artifact (NAME[@VERSION]) or a folder with a native or Hugging Face model")
    add("prompt", help="the text to continue; at least one token")
    add("--stream", action="store_true", help="print each piece as soon as it is known")
    add("--json", action="store_true", help="print the result as JSON; with --stream: events as JSON lines")
    add("--max-tokens", type=int, default=defaults.max_tokens, help="new tokens at most (default %(default)s)")
    add("--temperature", type=float, default=defaults.temperature, help="0 (default) takes the likeliest token")
    add("--top-k", type=int, default=defaults.top_k, help="draw from the k likeliest only; 0 (default): from all")
    add("--top-p", type=float, default=defaults.top_p, help="draw from the likeliest that reach it (default 1)")
    add("--seed", type=int, default=defaults.seed, help="makes the drawing repeatable (default %(default)s)")
    add("--tokenizer", help="a tokenizer artifact or folder, where the model's folder has none")
    add("-f", "--cluster", help="the cluster's file, whose store holds the artifacts")
    return parser


def _sampling(options: argparse.Namespace) -> SamplingSection:
    """Returns the checked options, which mean what a generate job's `sampling` means."""
    for option, is_right, expected in (
        ("max_tokens", options.max_tokens >= 1, "at least 1"),
        ("temperature", math.isfinite(options.temperature) and options.temperature >= 0, "at least 0"),
        ("top_k", options.top_k >= 0, "at least 0"),
        ("top_p", 0 < options.top_p <= 1, "more than 0 and at most 1"),
        ("seed", 0 <= options.seed < 1 << 63, "0 to 2^63 - 1"),
    ):
        if not is_right:
            flag, found = f"--{option.replace('_', '-')}", getattr(options, option)
            raise InputError(f"{flag}: expected {expected}, found {found}")
    return SamplingSection(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )


def _load(model: str, tokenizer: str | None, cluster: str | None) -> LoadedModel:
    folder = _resolve(model, "model", cluster)
    return load(folder, None if tokenizer is None else _resolve(tokenizer, "tokenizer", cluster))


def _resolve(given: str, kind: str, cluster: str | None) -> Path:
    """Returns the folder of an artifact reference, or of a path: what begins with `/`, `.` or `~` is a path."""
    path = Path(given)
    if given.startswith(("/", ".", "~")):
        path = path.expanduser()
        if not path.exists():
            raise InputError(f"{given}: no such folder")
        return path
    store = ArtifactStore.open(Home.of(load_cluster(cluster).cluster))
    try:
        return store.open_artifact(given, kind).path
    except InputError as error:
        # An artifact comes first. `models/mine` is no reference at all: no kind of artifact is called `models`. And a
        # folder of something else that has the name (of texts, say) is not meant.
        if path.is_dir() and ("/" in given or (isinstance(error, ArtifactNotFound) and (path / _MARKS[kind]).exists())):
            return path
        raise
    finally:
        store.registry.close()


def _stream_events(loaded: LoadedModel, prompt: Prompt, sampling: SamplingSection) -> Continuation:
    def emit(event: Text) -> None:
        sys.stdout.write(event_to_json(event) + "\n")
        sys.stdout.flush()

    emit(Text(0, prompt.text, "prompt"))
    done = continue_prompt(loaded, prompt, sampling, lambda piece: emit(Text(0, piece)) if piece else None)
    emit(Text(0, done.finish_reason, "end"))
    return done


def _write(piece: str) -> None:
    sys.stdout.write(without_controls(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def _ignore(piece: str) -> None:
    del piece
