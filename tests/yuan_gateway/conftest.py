"""One model behind both surfaces for all tests of the gateway."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.http_stack import HttpStack, http_stack
from tests.tiny_models import make_model, make_tokenizer, write_text

from yuan_corpus import Tokenizer

TENANTS = """
  security:
    tenants:
      alice: {token_file: HOME/alice, requests_per_minute: 2}
      bob: {token_file: HOME/bob, tokens_per_minute: 30}
      carol: {token_file: HOME/carol, concurrent_requests: 1, role: operator}
      expired: {token_file: HOME/expired, expires: "2020-01-01"}
"""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = folder.parent / "tokenizer"
    make_tokenizer(tokenizer, write_text(folder.parent / "text.txt"))
    make_model(folder, Tokenizer.load(tokenizer).eod_id)
    shutil.copytree(tokenizer, folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[HttpStack]:
    folder = tmp_path_factory.mktemp("stack")
    with http_stack(folder, model_folder, extra=TENANTS.replace("HOME", str(folder / "home")).rstrip()) as made:
        yield made
