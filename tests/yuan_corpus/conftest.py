"""Text and tokenizers that the tests of this library share."""

import json
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from yuan_corpus import Algorithm, Tokenizer, train_tokenizer
from yuan_corpus.packing import TokenSource

CHINESE = "人工智能是研究、开发用于模拟、延伸和扩展人的智能的理论、方法、技术及应用系统的科学。\n北京是中国的首都。"


@pytest.fixture(scope="session")
def source_files() -> list[Path]:
    """Real text of moderate size: some modules of the running interpreter."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = ["argparse.py", "ast.py", "bisect.py", "calendar.py", "csv.py", "dataclasses.py", "json/decoder.py"]
    return [folder / name for name in names]


@pytest.fixture(scope="session")
def texts(source_files: list[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in source_files] + [CHINESE * 20]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts, folder, Algorithm.BPE, 1000)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture
def processes_left() -> Callable[[], list[str]]:
    """The command lines of this process's children, without those that another test's fixture keeps.

    Python's own resource tracker stays by design.
    """
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def look() -> list[str]:
        lines: list[str] = []
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ends just now
                lines += [] if child.pid in before else [" ".join(child.cmdline())]
        return [line for line in lines if "resource_tracker" not in line]

    return look


class NumberedTokens:
    """Documents in which token j of document i is 100 * i + j, as in the golden cases."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = np.array(lengths, np.int32)

    def get(self, item: int, offset: int = 0, length: int | None = None) -> NDArray[np.int64]:
        count = int(self.lengths[item]) - offset if length is None else length
        assert offset >= 0
        assert count >= 0
        assert offset + count <= self.lengths[item]
        return 100 * item + offset + np.arange(count)


@pytest.fixture(scope="session")
def numbered_tokens() -> Callable[[Sequence[int]], TokenSource]:
    return NumberedTokens


@pytest.fixture(scope="session")
def golden_samples(shared: Path) -> dict[str, Any]:
    """Index arrays, samples and masks that the original makes."""
    return json.loads((shared / "data" / "golden" / "yuan_index_and_masks.json").read_text())
