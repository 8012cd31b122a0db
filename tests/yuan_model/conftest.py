"""Small networks with first weights that are large enough to matter."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from yuan_model import Yuan, YuanConfig, initialize_, load_model

EOD = 3


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_folder(shared: Path) -> Path:
    return shared / "golden" / "yuan-hf-tiny"


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> dict[str, Tensor]:
    return load_file(golden_folder / "golden.safetensors")


@pytest.fixture
def golden_model(golden_folder: Path) -> Yuan:
    return load_model(golden_folder)


def small_config(**changes: object) -> YuanConfig:
    values = {
        "vocab_size": 40,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 48,
        "eod_token_id": EOD,
        "initializer_range": 0.2,
    }
    return YuanConfig.from_dict({**values, **changes})


def small_model(**changes: object) -> Yuan:
    config = small_config(**changes)
    model = Yuan(config)
    initialize_(model, config, seed=7)
    with torch.no_grad():  # biases and norms that are not their first values, so that forgetting one shows
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                generator = torch.Generator().manual_seed(len(name))
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(name="small_config")
def _small_config() -> object:
    return small_config


@pytest.fixture(name="small_model", scope="session")
def _small_model() -> object:
    return small_model
