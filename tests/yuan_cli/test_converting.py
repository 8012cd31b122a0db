"""`yuan convert` and `yuan inspect` as a user types them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny_models import make_model

from yuan_cli.converting import ConvertOptions, convert
from yuan_events import InputError

TARGET = {"layout": "megatron", "tensor": 2, "stages": "1,1"}


def yuan(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yuan_cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=home.parent,
        env={**os.environ, "YUAN_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def printed(capsys: pytest.CaptureFixture[str], source: str, out: str, target: dict[str, object]) -> str:
    assert convert(source, out, target, None, ConvertOptions(print_manifest=True)) == 0
    return capsys.readouterr().out


def test_arguments_come_to_a_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = printed(capsys, str(tmp_path), "./divided", TARGET)
    assert f"path: {tmp_path}\n" in said
    assert f"path: {Path.cwd() / 'divided'}\n" in said
    assert "tensor: 2" in said
    said = printed(capsys, "demo@2", "published", {"layout": "native", "stages": None})
    assert "model: demo@2" in said
    assert "model: published" in said


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"layout": "gguf", "stages": None}, "--to gguf is not offered"),
        ({"layout": "megatron", "stages": "1,x"}, "--stages: expected a number, or layers per stage"),
        ({"layout": "native", "tensor": 2, "stages": None}, "target.tensor: only layout megatron is divided"),
        ({"layout": "native", "dtype": "int4", "stages": None}, "target.dtype: "),
        ({"layout": "huggingface", "dtype": "int8", "stages": None}, "target.dtype: int8 is of layout native"),
        ({"layout": "megatron", "iteration": "-3", "stages": None}, "target.iteration: expected release or a number"),
    ],
)
def test_wrong_arguments_are_one_line(target: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        convert("demo", "out", target, None, ConvertOptions(print_manifest=True))
    assert "\n" not in str(raised.value)


def test_without_a_place_to_write_to_it_is_one_line() -> None:
    with pytest.raises(InputError, match="--out is missing"):
        convert("demo", None, TARGET, None, ConvertOptions())


@pytest.mark.slow
def test_a_folder_goes_to_the_original_and_back_and_does_not_differ(tmp_path: Path) -> None:
    make_model(tmp_path / "model", 3)
    home = tmp_path / "home"
    arguments = ("--to", "megatron", "--tensor", "2", "--stages", "1,1", "--out", "./divided")
    done = yuan(home, "convert", "./model", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verified: largest logit difference 0 " in done.stdout
    again = yuan(home, "convert", "./model", *arguments)
    assert "done before" in again.stdout
    exists = yuan(home, "convert", "./model", "--to", "native", "--out", "./divided")
    assert exists.returncode == 2
    assert exists.stderr.splitlines()[-1].endswith("exists already; name a new folder, or remove that one")
    assert yuan(home, "convert", "./divided", "--to", "native", "--out", "back").returncode == 0
    same = yuan(home, "inspect", "--diff", "./model", "back")
    assert same.returncode == 0, same.stdout
    told = json.loads(yuan(home, "inspect", "back", "--json").stdout)
    assert told["layout"] == "native"
    assert all(one["sha256"] for one in told["files"])


@pytest.mark.slow
def test_foreground_and_queue_make_the_same_bytes(tmp_path: Path) -> None:
    make_model(tmp_path / "model", 3)
    home, file = tmp_path / "home", tmp_path / "cluster.yaml"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    services = (
        f"data: null, trainer: null, inference: null, evaluator: null, gateway: null, converter: {{port: {port}}}"
    )
    file.write_text(f"version: 1\ncluster: {{home: '{home}', services: {{{services}}}}}\n")
    arguments = ("./model", "--to", "megatron", "--tensor", "2", "--stages", "1,1", "-f", str(file))
    assert yuan(home, "convert", *arguments, "--out", "./here").returncode == 0
    up = yuan(home, "up", "--detach", "-f", str(file))
    try:
        assert up.returncode == 0, up.stderr
        done = yuan(home, "convert", *arguments, "--out", "./queued", "--submit", "--watch")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        assert yuan(home, "down", "-f", str(file)).returncode == 0
    here, queued = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "here", tmp_path / "queued")
    )
    assert len(here) == 5
    assert here == queued
