"""A native model with its tokenizer."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny_models import make_model, make_tokenizer, write_text


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(root / "tokenizer", write_text(root / "text.txt"))
    make_model(root / "model", tokenizer.eod_id)
    shutil.move(root / "tokenizer", root / "model" / "tokenizer")
    return root / "model"
