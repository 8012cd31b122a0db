"""The index of MinHash signatures decides as a comparison of all pairs does, in little memory."""

import numpy as np
import pytest

from yuan_corpus.cleaning.band_index import BandIndex, Signature

THRESHOLD = 0.6


def like(signatures: Signature, new: Signature, bands: int, rows: int) -> bool:
    """Says by comparison with all whether a signature is like one of them."""
    same = signatures == new
    share_a_band = same[:, : bands * rows].reshape(-1, bands, rows).all(axis=2).any(axis=1)
    return bool((share_a_band & (same.mean(axis=1) >= THRESHOLD)).any())


# Of few different values: many bands are the same where the whole is not.
@pytest.mark.parametrize(
    ("bands", "rows", "permutations", "values"), [(8, 4, 32, 5), (5, 3, 16, 7), (1, 20, 20, 2), (16, 1, 16, 40)]
)
def test_it_admits_what_a_comparison_of_all_pairs_admits(bands: int, rows: int, permutations: int, values: int) -> None:
    random = np.random.default_rng(bands)
    index = BandIndex(bands, rows, permutations)
    kept = np.zeros((3000, permutations), np.uint16)
    verdicts: set[bool] = set()
    for number in range(3000):
        signature = random.integers(0, values, permutations, np.uint16)
        if number % 3 == 2:  # an earlier one, changed here and there
            changed = random.random(permutations) < random.choice([0.0, 0.2, 0.4])
            signature = np.where(changed, signature, kept[random.integers(0, len(index))])
        wanted = not like(kept[: len(index)], signature, bands, rows)
        if wanted:
            kept[len(index)] = signature
        assert index.admit(signature, THRESHOLD) == wanted, number
        verdicts.add(wanted)
    assert verdicts == {True, False}
    assert len(index) > 1024  # its tables have grown


def test_signatures_of_which_all_share_a_band_are_told_apart() -> None:
    random = np.random.default_rng(3)
    index = BandIndex(4, 4, 16)
    signatures = random.integers(0, 1 << 16, (2000, 16), np.uint16)
    signatures[:, :4] = 7  # as texts have that begin alike
    assert all(index.admit(signature, 0.9) for signature in signatures)
    assert not any(index.admit(signature, 0.9) for signature in signatures)
    assert index.admit(np.roll(signatures[5], 1), 0.9)


def test_a_signature_takes_half_a_kilobyte() -> None:
    random = np.random.default_rng(5)
    index = BandIndex(16, 8, 128)
    for signature in random.integers(0, 1 << 16, (20_000, 128), np.uint16):
        index.admit(signature, 0.8)
    assert len(index) == 20_000
    assert index.nbytes / len(index) < 550
