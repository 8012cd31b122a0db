"""A small folder of manifests to break, as the working directory, and no environment that would leak in."""

from collections.abc import Callable
from pathlib import Path

import pytest

JOB = """\
version: 1
extends: model.yaml
kind: pretrain
name: small
inputs: {tokenizer: demo, datasets: [{name: text, weight: 1.0}]}
outputs: {model: small}
data: {sequence_length: 32, split: [0.8, 0.1, 0.1]}
train: {steps: 20, global_batch_size: 8, micro_batch_size: 2}
optimizer: {lr: 1e-3, warmup_steps: 2}
"""
MODEL = """\
# A fragment.
model:
  vocab_size: 512
  hidden_size: 64
  num_hidden_layers: 4
  num_attention_heads: 4
  intermediate_size: 128
  max_position_embeddings: 64
"""
CLUSTER = """\
version: 1
cluster:
  home: home
topology:
  nodes: {devices: 4}
  parallel: {pipeline: 2, stages: [1, 3]}
"""
TOKENIZER = """\
version: 1
kind: tokenizer
name: words
inputs: {text: [text]}
outputs: {tokenizer: words}
"""
PIPELINE = """\
version: 1
kind: pipeline
name: all
steps:
  train:
    manifest: job.yaml
    needs: [words]
    overrides: {train: {steps: 10}}
  words: {manifest: tokenizer.yaml}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a sound job, its fragment, a cluster, a tokenizer job and a pipeline."""
    files = {"job": JOB, "model": MODEL, "cluster": CLUSTER, "tokenizer": TOKENIZER, "pipeline": PIPELINE}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("YUAN_HOME", raising=False)
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    return tmp_path


@pytest.fixture
def replaced(folder: Path) -> Callable[[str, str, str], None]:
    """Replaces a piece of one of the files; the piece must be there."""

    def replace(name: str, old: str, new: str) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return replace
