"""The product as a user has it: the command `yuan` in a process of its own, a home, a folder with texts."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

YUAN = Path(sys.executable).with_name("yuan")


class User:
    """Types commands in a folder of its own.

    Attributes:
        folder: where commands run.
        home: YUAN_HOME.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.environment = {**os.environ, "YUAN_HOME": str(self.home), "COLUMNS": "120"}
        self.environment.pop("YUAN_CLUSTER", None)

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `yuan` with arguments, in a session of its own as a terminal gives it."""
        return subprocess.Popen(
            [YUAN, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `yuan` to its end."""
        process = self.starts(*arguments)
        output, errors = process.communicate(timeout=400)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def does(self, *arguments: str) -> str:
        """Runs `yuan`, which must succeed; returns what it printed."""
        done = self.types(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def is_refused(self, *arguments: str) -> str:
        """Runs `yuan`, which must find the input wrong; returns its one line."""
        done = self.types(*arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return lines[0]

    def processes(self) -> list[psutil.Process]:
        """Returns every process alive that works in this user's home."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("YUAN_HOME") == str(self.home):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


PIPELINE = """
version: 1
kind: pipeline
name: small
steps:
  tokenizer: {manifest: tokenizer.yaml}
  tokenize: {manifest: tokenize.yaml, needs: [tokenizer]}
  pretrain: {manifest: pretrain.yaml, needs: [tokenizer, tokenize]}
  generate: {manifest: generate.yaml, needs: [pretrain]}
"""
TOKENIZER = """
version: 1
kind: tokenizer
name: small-tokenizer
inputs: {text: [texts], documents: files}
tokenizer: {vocab_size: 512}
outputs: {tokenizer: small}
"""
TOKENIZE = """
version: 1
kind: tokenize
name: small-tokenize
inputs: {tokenizer: small, text: [texts], documents: files}
outputs: {dataset: small}
"""
PRETRAIN = """
version: 1
kind: pretrain
name: small-pretrain
topology: {parallel: {pipeline: 2, stages: [1, 3]}}
model: {vocab_size: 512, hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 64,
        max_position_embeddings: 128}
inputs: {tokenizer: small, datasets: [{name: small}]}
data: {sequence_length: 64, split: [0.8, 0.2, 0]}
train: {steps: 12, global_batch_size: 4, micro_batch_size: 2, precision: fp32}
optimizer: {lr: 5e-3, warmup_steps: 2}
checkpoint: {every_steps: 5}
evaluation: {samples: 8}
outputs: {model: small}
"""
GENERATE = """
version: 1
kind: generate
name: small-generate
inputs: {model: small, prompts: ["import os", "def main("]}
sampling: {max_tokens: 8}
outputs: {report: small}
"""


def new_user(folder: Path) -> User:
    """Makes a user with real texts and the manifests of a small pipeline."""
    texts = folder / "texts"
    texts.mkdir()
    for source in sorted((Path(sysconfig.get_paths()["stdlib"]) / "json").glob("*.py")):
        (texts / source.name).write_bytes(source.read_bytes())
    for name, text in (
        ("pipeline", PIPELINE),
        ("tokenizer", TOKENIZER),
        ("tokenize", TOKENIZE),
        ("pretrain", PRETRAIN),
        ("generate", GENERATE),
    ):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return User(folder)


def check_nothing_is_left(user: User) -> None:
    """Fails if a process still works in the user's home, and ends it."""
    left = user.processes()
    commands = [" ".join(process.cmdline()) for process in left]
    for process in left:
        process.kill()
    assert not commands, f"processes are left: {commands}"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A new user; whatever still runs afterwards fails the test."""
    user = new_user(tmp_path)
    yield user
    check_nothing_is_left(user)


@pytest.fixture(scope="module")
def seasoned_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[User, str]]:
    """A user whose pipeline has run, and what it printed; tests leave the artifacts as they are."""
    user = new_user(tmp_path_factory.mktemp("seasoned"))
    printed = user.does("run", "pipeline.yaml")
    yield user, printed
    check_nothing_is_left(user)
