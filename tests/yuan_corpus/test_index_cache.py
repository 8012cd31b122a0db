"""Index arrays kept between runs: found again, never for other content, and never half."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from yuan_corpus import BlendedDataset, PackedDataset
from yuan_corpus.packing import TokenSource

Sources = Callable[[Sequence[int]], TokenSource]
LENGTHS = [5, 0, 17, 30, 8, 21]


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("packing", "blending"):
        monkeypatch.setattr(f"yuan_corpus.{module}.SMALLEST_KEPT", 0)


def packed(
    source: TokenSource, cache: Path | None, *, samples: int = 20, seed: int = 1, first: int = 0
) -> PackedDataset:
    return PackedDataset(source, range(first, len(source.lengths)), samples, 7, seed, cache=cache)


def arrays(dataset: PackedDataset) -> list[list[int]]:
    return [getattr(dataset, f"{name}_index").tolist() for name in ("document", "sample", "shuffle")]


def test_kept_arrays_are_those_that_were_made_and_are_mapped(tmp_path: Path, numbered_tokens: Sources) -> None:
    source = numbered_tokens(LENGTHS)
    plain = packed(source, None)
    for _ in range(2):
        kept = packed(source, tmp_path / "index")
        assert arrays(kept) == arrays(plain)
        assert [kept[index].tolist() for index in range(20)] == [plain[index].tolist() for index in range(20)]
    assert isinstance(kept.sample_index, np.memmap)
    assert len(list((tmp_path / "index").iterdir())) == 1


def test_whatever_they_are_made_from_makes_another_entry(tmp_path: Path, numbered_tokens: Sources) -> None:
    source, changed = numbered_tokens(LENGTHS), numbered_tokens([*LENGTHS[:-2], 9, 20])
    made = [
        packed(source, tmp_path),
        packed(source, tmp_path, seed=2),
        packed(source, tmp_path, samples=21),
        packed(source, tmp_path, first=1),
        packed(changed, tmp_path),
    ]
    assert len(list(tmp_path.iterdir())) == len(made)
    assert arrays(made[-1]) == arrays(packed(changed, None))


@pytest.mark.parametrize("damage", ["cut", "gone", "junk"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, numbered_tokens: Sources, damage: str) -> None:
    source = numbered_tokens(LENGTHS)
    packed(source, tmp_path)
    (path,) = tmp_path.rglob("sample_index.npy")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10] if damage == "cut" else b"junk")

    assert arrays(packed(source, tmp_path)) == arrays(packed(source, None))
    assert isinstance(packed(source, tmp_path).sample_index, np.memmap)


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path, numbered_tokens: Sources) -> None:
    (tmp_path / "file").touch()
    source = numbered_tokens(LENGTHS)

    assert arrays(packed(source, tmp_path / "file" / "below")) == arrays(packed(source, None))


def test_a_blends_choice_is_kept_too(tmp_path: Path, numbered_tokens: Sources) -> None:
    sources = [packed(numbered_tokens(LENGTHS), None, samples=40), packed(numbered_tokens([90]), None, samples=40)]
    blends = [BlendedDataset(sources, [1.0, 3.0], 30, cache=cache) for cache in (None, tmp_path, tmp_path)]

    assert len({tuple(blend.dataset_index.tolist()) for blend in blends}) == 1
    assert len({tuple(blend.sample_index.tolist()) for blend in blends}) == 1
    assert len(list(tmp_path.iterdir())) == 1
