"""A conversion keeps every bit it is not asked to change, and takes the tokenizer along."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from yuan_checkpoint import load_for_inference
from yuan_converter.conversion import convert_work, fingerprint
from yuan_corpus import Tokenizer
from yuan_events import InputError, Interrupted, Message, Progress, RecordingSink, WorkFailed
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import ConvertInputs, ConvertJob, ConvertOutputs, Kind, Layout, TargetSection, Topology
from yuan_model import ModelFolder, load_model


def convert(
    source: Path, output: Path, layout: Layout, dtype: str | None = None, *, stop: bool = False, artifact: bool = False
) -> tuple[dict[str, object], RecordingSink]:
    output.mkdir()
    sink = RecordingSink()
    inputs = ConvertInputs(model="tiny") if artifact else ConvertInputs(path=str(source))
    job = ConvertJob(
        kind=Kind.convert,
        name="test",
        inputs=inputs,
        target=TargetSection(layout=layout, dtype=dtype),
        outputs=ConvertOutputs(model="tiny"),
    )
    handles = {"model": ArtifactHandle("model", "tiny", 1, source, digest="")} if artifact else {}
    context = WorkContext(job, Topology(), handles, output, output.parent, sink, lambda: stop)
    return dict(convert_work(context).summary), sink


def same_tensors(first: Path, second: Path) -> bool:
    ours, theirs = ModelFolder(first), ModelFolder(second)
    return ours.config == theirs.config and all(
        torch.equal(tensor, theirs.tensor(name)) and tensor.dtype == theirs.tensor(name).dtype
        for name, tensor in ours.tensors()
    )


@pytest.mark.parametrize("artifact", [True, False])
def test_to_hugging_face_and_back_is_the_same_model_with_the_same_tokenizer(
    artifact: bool, model_folder: Path, tmp_path: Path
) -> None:
    there, sink = convert(model_folder, tmp_path / "there", Layout.huggingface, artifact=artifact)
    back, _ = convert(tmp_path / "there", tmp_path / "back", Layout.native, artifact=artifact)
    assert (there["source_layout"], there["target_layout"], there["dtype"]) == ("native", "huggingface", "as stored")
    assert (back["source_layout"], back["target_layout"]) == ("huggingface", "native")
    assert same_tensors(model_folder, tmp_path / "there")
    assert same_tensors(model_folder, tmp_path / "back")
    original = Tokenizer.load(model_folder / "tokenizer")
    assert Tokenizer.load(tmp_path / "there").digest == original.digest
    assert Tokenizer.load(tmp_path / "back" / "tokenizer").digest == original.digest
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    assert (config["eod_token"], config["sep_token"]) == (original.eod_id, original.sep_id)
    progress = [event for event in sink.events if isinstance(event, Progress) and event.task == "convert"]
    values = 4 * ModelFolder(model_folder).config.parameter_count()
    assert progress[-1].done == progress[-1].total == pytest.approx((values + 2 * 8 * 4) / 1e6)  # and rotary buffers
    assert "left" in progress[-1].detail


def test_the_golden_model_computes_the_same_after_conversion(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "yuan-hf-tiny"
    convert(golden, tmp_path / "native", Layout.native)
    convert(tmp_path / "native", tmp_path / "again", Layout.huggingface)
    ids = torch.arange(40)[None]
    expected = load_model(golden)(ids)
    assert torch.equal(load_model(tmp_path / "native")(ids), expected)
    assert torch.equal(load_model(tmp_path / "again")(ids), expected)
    assert not (tmp_path / "native" / "tokenizer").exists()


def test_a_tokenizer_beside_published_weights_goes_along(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "published"
    # Contents alone: what may not be written to there may be here.
    source.mkdir()
    for path in (shared / "golden" / "yuan-hf-tiny").iterdir():
        shutil.copyfile(path, source / path.name)
    shutil.copyfile(shared / "data" / "yuan-tokenizer" / "tokenizer.model", source / "tokenizer.model")
    convert(source, tmp_path / "native", Layout.native)
    assert Tokenizer.load(tmp_path / "native" / "tokenizer").eod_id == 77185


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("layout", [Layout.native, Layout.huggingface])
def test_a_dtype_is_changed_where_it_is_asked_for(
    name: str, dtype: torch.dtype, layout: Layout, model_folder: Path, tmp_path: Path
) -> None:
    convert(model_folder, tmp_path / "out", layout, name)
    source, target = ModelFolder(model_folder), ModelFolder(tmp_path / "out")
    assert all(torch.equal(target.tensor(key), tensor.to(dtype)) for key, tensor in source.tensors())


def test_values_that_fp16_cannot_hold_are_refused_by_the_tensors_name(model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    shutil.copytree(model_folder, source)
    tensors = load_file(source / "model-embedding.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1e5
    save_file(tensors, source / "model-embedding.safetensors")
    with pytest.raises(InputError, match=r"tensor model.norm.weight has values beyond float16's largest"):
        convert(source, tmp_path / "out", Layout.native, "fp16")
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_source_that_is_no_model_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/none: no such folder"):
        convert(tmp_path / "none", tmp_path / "out", Layout.native)


def test_a_conversion_that_is_asked_to_stop_stops(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        convert(model_folder, tmp_path / "out", Layout.native, stop=True)


def test_a_folders_fingerprint_is_that_of_what_is_read_of_it(model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)

    def digest() -> str:
        job = ConvertJob(kind=Kind.convert, name="test", inputs=ConvertInputs(path=str(copy)))
        return fingerprint(job)["path"]

    first = digest()
    (copy / "notes.txt").write_text("not a part of the model")
    assert digest() == first
    tensors = load_file(copy / "model-embedding.safetensors")
    save_file({name: tensor + 1.0 for name, tensor in tensors.items()}, copy / "model-embedding.safetensors")
    assert digest() != first
    assert not fingerprint(ConvertJob(kind=Kind.convert, name="test", inputs=ConvertInputs(model="tiny")))


def work(
    job: ConvertJob, output: Path, inputs: dict[str, ArtifactHandle] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Does a job into a folder; returns what it reports, and its lines."""
    output.mkdir()
    sink = RecordingSink()
    context = WorkContext(job, Topology(), inputs or {}, output, output.parent, sink)
    summary = dict(convert_work(context).summary)
    return summary, [event.text for event in sink.events if isinstance(event, Message)]


def job_of(source: Path, target: TargetSection | None = None, **others: Any) -> ConvertJob:
    return ConvertJob(
        kind=Kind.convert,
        name="test",
        inputs=ConvertInputs(path=str(source), adapter=others.pop("adapter", None)),
        target=target or TargetSection(),
        outputs=ConvertOutputs(model="tiny"),
        **others,
    )


MEGATRON = TargetSection(layout=Layout.megatron, tensor=2, stages=[0, 2])


def test_to_the_original_and_back_is_the_same_model_and_is_verified(model_folder: Path, tmp_path: Path) -> None:
    there, told = work(job_of(model_folder, MEGATRON), tmp_path / "there")
    assert (there["tensor"], there["stages"], there["files"]) == (2, [0, 2], 4)
    assert there["largest_logit_difference"] == 0.0
    assert any(line.startswith("verified: largest logit difference 0 over") for line in told)
    assert (tmp_path / "there" / "release" / "mp_rank_01_001" / "model_optim_rng.pt").is_file()
    work(job_of(tmp_path / "there"), tmp_path / "back")
    assert same_tensors(model_folder, tmp_path / "back")
    assert Tokenizer.load(tmp_path / "back" / "tokenizer").digest == Tokenizer.load(model_folder / "tokenizer").digest
    assert not list(tmp_path.glob(".*"))


def test_a_conversion_that_was_killed_goes_on_with_its_finished_files(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    first = tmp_path / ".out.job-1.attempt-1"
    with monkeypatch.context() as patch:
        patch.setattr("yuan_checkpoint.conversion._finish", die)
        with pytest.raises(Killed):
            work(job_of(model_folder), first)
    assert list(first.iterdir()) == []
    partial = tmp_path / ".out.job-1.partial"
    assert not (partial / "config.json").exists()
    times = {file.name: file.stat().st_mtime_ns for file in partial.glob("*.safetensors")}
    work(job_of(model_folder), tmp_path / ".out.job-1.attempt-2")
    done = tmp_path / ".out.job-1.attempt-2"
    assert {file.name: file.stat().st_mtime_ns for file in done.glob("*.safetensors")} == times
    assert same_tensors(model_folder, done)
    assert not partial.exists()


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match=r"0\.00 GB are free on this disk, the conversion writes 0\.00 GB; make room"):
        work(job_of(model_folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_what_computes_something_else_is_not_kept(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yuan_checkpoint import conversion

    right = conversion._fill

    def wrong(run: Any, pieces: Any, row: int, out: torch.Tensor) -> None:
        right(run, pieces, row, out)
        out[-1] += 0.25

    monkeypatch.setattr(conversion, "_fill", wrong)
    with pytest.raises(WorkFailed, match="what was written computes something else: largest logit difference"):
        work(job_of(model_folder), tmp_path / "out")
    assert list(tmp_path.glob("*/*")) == []
    assert list(tmp_path.glob(".*")) == []
    work(job_of(model_folder, verify=False), tmp_path / "unverified")


def test_unknown_tensors_are_named_and_left_out_unless_it_is_strict(model_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model_folder, source)
    file = source / "model-embedding.safetensors"
    save_file({**load_file(file), "extra": torch.ones(2)}, file)
    _, told = work(job_of(source), tmp_path / "out")
    assert f"{file}: extra: unknown tensor, left out" in told
    assert same_tensors(model_folder, tmp_path / "out")
    with pytest.raises(InputError, match=f"{file}: unknown tensor extra"):
        work(job_of(source, strict=True), tmp_path / "strict")


def test_int8_tells_what_it_costs_each_matrix(model_folder: Path, tmp_path: Path) -> None:
    summary, told = work(job_of(model_folder, TargetSection(dtype="int8")), tmp_path / "int8")
    errors = json.loads((tmp_path / "int8" / "quantization.json").read_text())
    assert len(errors) == 2 * 6
    assert summary["largest_int8_error"] == max(one["relative"] for one in errors) < 0.02
    assert any("12 matrices; the error of each is in quantization.json" in line for line in told)
    assert load_for_inference(tmp_path / "int8")(torch.arange(5)[None]).isfinite().all()


def test_an_adapter_that_is_the_model_itself_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the model itself, whose weights have the additions in them already"):
        work(job_of(model_folder, adapter=str(model_folder)), tmp_path / "out")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=home.parent,
        env={**os.environ, "YUAN_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def test_as_a_process_it_makes_an_artifact_that_generates(model_folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "convert.yaml"
    manifest.write_text(
        f"version: 1\nkind: convert\nname: import\ninputs: {{path: '{model_folder}'}}\n"
        "target: {layout: huggingface, dtype: bf16}\noutputs: {model: imported}\n"
    )
    done = run(tmp_path / "home", "yuan_converter", "run", str(manifest))
    assert (done.returncode, done.stderr) == (0, "")
    assert "model/imported@1" in done.stdout
    again = run(tmp_path / "home", "yuan_converter", "run", str(manifest))
    assert "done before" in again.stdout
    generated = run(tmp_path / "home", "yuan_inference", "generate", "imported", "shall I", "--max-tokens", "5")
    assert (generated.returncode, generated.stderr) == (0, "")
    assert generated.stdout.strip()
