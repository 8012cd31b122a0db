"""One model with its tokenizer for all tests of the service."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny_models import make_model, make_tokenizer, write_text

from yuan_corpus import Tokenizer
from yuan_inference.loaded import LoadedModel, load


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    make_tokenizer(folder, write_text(folder.parent / "text.txt"))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    make_model(folder, Tokenizer.load(tokenizer_folder).eod_id)
    shutil.copytree(tokenizer_folder, folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def loaded(model_folder: Path) -> LoadedModel:
    return load(model_folder)
