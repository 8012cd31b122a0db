"""`inspect`, `diff` and `dry-run` of the converter's process, called here as functions."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from yuan_converter.command import diff_command, dry_run_command, inspect_command
from yuan_events import InputError
from yuan_model import ModelFolder


def test_an_inspection_says_what_a_folder_is(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_command([str(model_folder)]) == 0
    said = capsys.readouterr().out
    for part in ("layout               native", "tensor 1, pipeline 1", "localized filter", "mean", "config.json"):
        assert part in said
    assert inspect_command([str(model_folder), "--headers", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = ModelFolder(model_folder)
    assert told["parameter_count"] == folder.config.parameter_count()
    assert {one["name"]: one["shape"] for one in told["tensors"]} == {
        name: list(tensor.shape) for name, tensor in folder.tensors()
    }
    assert all(one["statistics"] is None for one in told["tensors"])


def test_a_diff_names_the_tensors_that_differ(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff_command([str(model_folder), str(model_folder)]) == 0
    assert capsys.readouterr().out == f"all {len(ModelFolder(model_folder).names)} tensors are the same\n"
    shutil.copytree(model_folder, tmp_path / "other")
    file = tmp_path / "other" / "model-embedding.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][2] += 0.5
    save_file(tensors, file)
    assert diff_command([str(model_folder), str(tmp_path / "other")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("model.norm.weight: 1 values, largest difference 0.5, relative")
    assert said[-1] == f"1 of {len(ModelFolder(model_folder).names)} tensors differ"


def test_a_dry_run_of_the_largest_model_plans_it_from_its_manifest(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yuan_converter.estimating._PROBE_BYTES", 1 << 20)
    manifest = tmp_path / "convert.yaml"
    source = repository / "configs" / "jobs" / "pretrain-102b.yaml"
    manifest.write_text(
        f"version: 1\nkind: convert\nname: plan\ninputs: {{path: '{source}'}}\n"
        f"target: {{layout: megatron, tensor: 8}}\noutputs: {{path: '{tmp_path / 'out'}'}}\n"
    )
    assert dry_run_command([str(manifest), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["source_files"], told["target_files"], told["parameters"]) == (32, 8, 102_577_954_816)
    # Two bytes a parameter, and a copy of the tied embedding on the last of 32 stages.
    values = 2 * (102_577_954_816 + 135_040 * 8192)
    assert values < told["source_bytes"] < values * 1.0001
    # Filters and norms are on every one of 8 ranks.
    replicated = 84 * (8192 * 8192 * 2 + 4096 + 8192 + 3 * 8192) + 8192
    values = 2 * (102_577_954_816 + 7 * replicated)
    assert values < told["target_bytes"] < values * 1.0001
    assert told["peak_memory"] < 2e9
    assert told["seconds"] > 0
    assert dry_run_command([str(manifest)]) == 0
    assert "release/mp_rank_07/model_optim_rng.pt" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: no checkpoint; expected config.json with weights"):
        inspect_command([str(tmp_path)])
