"""`yuan convert`: a convert job from arguments, run here or submitted. `yuan inspect`: the converter looks."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from yuan_events import InputError
from yuan_jobs.processes import STOP_NOTICE, StopRequest
from yuan_jobs.references import Reference
from yuan_manifest import Job, job_of_plain, to_yaml
from yuan_stack import run_manifest, run_service

_NO_GGUF = (
    "yuan convert: --to gguf is not offered: GGUF's readers know no network with localized filtering, so that no "
    "program could run the file; expected native, megatron or huggingface"
)


@dataclass(frozen=True)
class ConvertOptions:
    """What else is asked for.

    Attributes:
        adapter: a folder or a model artifact; None: none.
        flags: `strict` and `verify` of the manifest; None: its default.
        submit, watch, force: as of `yuan submit`.
        dry_run, print_manifest, as_json: only say.
        source: tensor size and stages of a source that is only described.
    """

    adapter: str | None = None
    flags: Mapping[str, bool | None] = field(default_factory=dict[str, "bool | None"])
    submit: bool = False
    watch: bool = False
    force: bool = False
    dry_run: bool = False
    print_manifest: bool = False
    as_json: bool = False
    source: tuple[int, str] = (1, "")


def convert(
    source: str,
    out: str | None,
    target: Mapping[str, Any],
    cluster: Path | None,
    options: ConvertOptions,
) -> int:
    """Converts a checkpoint; returns the exit code.

    Args:
        source: a folder or a model artifact.
        out: a new folder or an artifact's name; None: only with `dry_run`.
        target: the manifest's `target`; stages as text.
        cluster: the cluster's file.
        options: how.

    Raises:
        InputError: if what was given is wrong.
    """
    job = _job(source, out, target, options)
    if options.print_manifest:
        typer.echo(to_yaml(job), nl=False)
        return 0
    with tempfile.TemporaryDirectory(prefix="yuan-convert-") as folder:
        manifest = Path(folder) / "convert.yaml"
        manifest.write_text(to_yaml(job), encoding="utf-8")
        if options.dry_run:
            tensor, stages = options.source
            told = ["--source-tensor", str(tensor), *([f"--source-stages={stages}"] if stages else [])]
            arguments = ["dry-run", *told, *(["--json"] if options.as_json else []), *_place(cluster), str(manifest)]
            with StopRequest(STOP_NOTICE, insistent=False) as stop:
                return run_service("converter", arguments, stop)
        if options.submit:
            from yuan_cli.following import Submission, submit_manifest  # noqa: PLC0415 - loads gRPC

            wanted = Submission(force=options.force, watch=options.watch, as_json=options.as_json)
            return submit_manifest(manifest, [], cluster, wanted)
        return run_manifest(manifest, [], cluster, force=options.force)


def inspect(given: Sequence[str], flags: Sequence[str], cluster: Path | None, *, diff: bool) -> int:
    """Shows a checkpoint, or how two differ; returns the exit code.

    Args:
        given: one, or two with `diff`.
        flags: of the service's command.
        cluster: the cluster's file.
        diff: compare.

    Raises:
        InputError: if their number is wrong.
    """
    wanted = 2 if diff else 1
    if len(given) != wanted:
        what = "--diff compares two checkpoints" if diff else "one checkpoint is shown at a time; --diff compares two"
        raise InputError(f"yuan inspect: {what}, found {len(given)}")
    flags = [flag for flag in flags if flag == "--json"] if diff else list(flags)
    arguments = ["diff" if diff else "inspect", *flags, *_place(cluster), "--", *given]
    with StopRequest(STOP_NOTICE, insistent=False) as stop:
        return run_service("converter", arguments, stop)


def _job(
    source: str,
    out: str | None,
    target: Mapping[str, Any],
    options: ConvertOptions,
) -> Job:
    if target["layout"] == "gguf":
        raise InputError(_NO_GGUF)
    if out is None and not options.dry_run:
        raise InputError("yuan convert: --out is missing; name a new folder (with a / in it) or a model artifact")
    stages = _stages(target["stages"])
    tree: dict[str, Any] = {
        "version": 1,
        "kind": "convert",
        "name": f"convert-{_name(source)}",
        "inputs": {
            **({"path": str(Path(source).expanduser().absolute())} if _is_folder(source) else {"model": source}),
            **({} if options.adapter is None else {"adapter": _adapter(options.adapter)}),
        },
        "target": {**{key: value for key, value in target.items() if value is not None}, "stages": stages},
        "outputs": _outputs(out or "dry-run"),
        **{name: value for name, value in options.flags.items() if value is not None},
    }
    return job_of_plain(tree, "yuan convert")


def _is_folder(source: str) -> bool:
    """Says whether a source is a path: it looks like one, or is no reference and is there."""
    if source.startswith(("/", ".", "~")):
        return True
    if "/" in source and not source.startswith("model/"):
        return True
    return Path(source).exists() and not _is_reference(source)


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text, "model")
    except InputError:
        return False
    return True


def _outputs(out: str) -> dict[str, str]:
    if "/" in out or out.startswith((".", "~")):
        return {"path": str(Path(out).expanduser().absolute())}
    return {"model": out}


def _adapter(adapter: str) -> str:
    is_path = "/" in adapter and not adapter.startswith("model/")
    return str(Path(adapter).expanduser().absolute()) if is_path else adapter


def _name(source: str) -> str:
    """Returns a job's name from a source's: small letters, digits, - and _."""
    last = Path(source.rstrip("/")).name.partition("@")[0].lower()
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "-" for letter in last)
    return plain.strip("-_")[:50] or "checkpoint"


def _stages(text: str | None) -> Any:
    if text is None:
        return 1
    parts = [part.strip() for part in text.strip("[]").split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"yuan convert: --stages: expected a number, or layers per stage (1,3), found {text!r}")
    counts = [int(part) for part in parts]
    return counts[0] if len(counts) == 1 and "[" not in text else counts


def _place(cluster: Path | None) -> list[str]:
    return [] if cluster is None else ["-f", str(cluster)]
