"""Stages on any text at all: none fails, none makes up text, and what counts fast counts as a plain count does."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus.cleaning import Dropped, Stage, StageSpec, build_stages
from yuan_corpus.cleaning.characters import code_points, kinds_of, run_hashes, spaced_words, unit_words
from yuan_corpus.cleaning.pipeline import STAGES, Cleaner, CleaningReport
from yuan_corpus.cleaning.quality import GopherRepetition
from yuan_corpus.cleaning.scripts import is_chinese, words
from yuan_corpus.cleaning.spans import SeenHashes

ANY_TEXT = st.text(max_size=200) | st.text("ab1 \n\t.，。三国演义…{\"'()#-*•\\$^_", max_size=300)
"""Any characters; or such as stages look at. No halves of surrogate pairs: no reader lets one through."""
REPETITIVE = st.lists(st.sampled_from(["a", "bc", "def", "g.", "三", "国", "演义", "\n", "  "]), max_size=120).map(
    " ".join
)
UNITS = re.compile(r"[㐀-䶿一-鿿\U00020000-\U0002ebef]|[^\W_㐀-䶿一-鿿\U00020000-\U0002ebef]+")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageSpec]:
    listed = tmp_path_factory.mktemp("lists") / "benchmark.txt"
    listed.write_text("one two three four five six seven eight nine ten eleven twelve thirteen fourteen\n")
    options: dict[str, dict[str, object]] = {
        "language": {"keep": ["zh", "en"]},
        "words": {"words": ["casino", "赌场"]},
        "decontamination": {"files": [str(listed)]},
    }
    return {name: StageSpec(name, options.get(name, {})) for name in STAGES}


@pytest.fixture(scope="module")
def cleaners(specs: dict[str, StageSpec]) -> dict[str, Cleaner]:
    return {name: Cleaner([spec]) for name, spec in specs.items()}


@given(text=ANY_TEXT)
@settings(max_examples=150)
def test_no_stage_fails_on_any_text_or_judges_it_otherwise_the_second_time(
    cleaners: dict[str, Cleaner], text: str
) -> None:
    for cleaner in cleaners.values():
        (once, (size, steps)), (again, (_, other)) = cleaner.clean(text), cleaner.clean(text)
        assert once == again
        assert [step and step.reason for step in steps] == [step and step.reason for step in other]
        assert size == (len(text), len(text.encode()))
        if once is not None:
            once.encode()  # what a tokenizer is then given


@given(texts=st.lists(ANY_TEXT, max_size=12))
@settings(max_examples=40)
def test_counts_of_any_documents_add_up(specs: dict[str, StageSpec], texts: list[str]) -> None:
    chosen = [
        specs[name] for name in ("unicode", "exact_duplicates", "repeated_spans", "length", "near_duplicates", "pii")
    ]
    cleaner, report = Cleaner(chosen), CleaningReport(chosen)
    kept = sum(report.take(cleaner.clean(text)[1]) for text in texts)
    stages = report.table_of_stages()

    assert stages[0]["documents"] == len(texts)
    for stage, following in itertools.pairwise(stages):
        assert stage["documents"] - stage["dropped"] == following["documents"]
        assert stage["characters_out"] == following["characters_in"]
    assert stages[-1]["documents"] - stages[-1]["dropped"] == kept


@given(ANY_TEXT)
def test_words_as_arrays_are_the_words_of_a_split(text: str) -> None:
    points = code_points(text)
    kinds = kinds_of(points)
    for chinese in (False, True):
        found = spaced_words(points, kinds, chinese)
        listed = words(text, chinese)
        assert [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)] == listed
        assert found.letters.tolist() == [any(map(str.isalpha, word)) for word in listed]
        assert len(set(found.hashes.tolist())) == len(set(listed))
    found = unit_words(points, kinds)
    assert [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)] == UNITS.findall(text)


@given(REPETITIVE, st.integers(1, 6))
def test_runs_of_words_have_equal_hashes_where_they_are_equal(text: str, size: int) -> None:
    points = code_points(text)
    listed = words(text, False)
    grams = [tuple(listed[start : start + size]) for start in range(len(listed) - size + 1)]
    hashes = run_hashes(spaced_words(points, kinds_of(points), False).hashes, size).tolist()

    numbers = dict(zip(grams, hashes, strict=True))
    assert [numbers[gram] for gram in grams] == hashes
    assert len(set(hashes)) == len(set(grams))


def plainly(text: str) -> str | Dropped:
    """Gopher's counts of n-grams over lists of strings: an oracle."""
    chinese = is_chinese(text)
    listed = words(text, chinese)
    total, scale = sum(map(len, listed)), 2 if chinese else 1

    def grams_of(size: int) -> list[tuple[str, ...]]:
        return [tuple(listed[start : start + size]) for start in range(len(listed) - size + 1)]

    for size, most in ((2, 0.20), (3, 0.18), (4, 0.16)):
        counts = Counter(grams_of(size * scale))
        highest = max(counts.values(), default=0)
        longest = max((sum(map(len, gram)) for gram, count in counts.items() if count == highest), default=0)
        if highest > 1 and highest * longest > most * total:
            return Dropped(f"one {size}-gram too often")
    for size, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        grams, seen = grams_of(size * scale), set[tuple[str, ...]]()
        start = repeated = 0
        while start < len(grams):
            if grams[start] in seen:
                repeated += sum(map(len, grams[start]))
                start += size * scale
            else:
                seen.add(grams[start])
                start += 1
        if repeated > most * total:
            return Dropped(f"repeated {size}-grams")
    return text


SENTENCES = st.lists(st.lists(st.integers(0, 400), min_size=3, max_size=14), min_size=1, max_size=6)


@given(SENTENCES, st.lists(st.integers(0, 5), min_size=1, max_size=14), st.booleans())
@settings(max_examples=200)
def test_repetition_is_counted_as_over_lists_of_words(
    sentences: list[list[int]], order: list[int], chinese: bool
) -> None:
    parts = [[chr(0x4E00 + word) if chinese else f"w{word}" for word in sentence] for sentence in sentences]
    text = ("" if chinese else " ").join(word for place in order for word in parts[place % len(parts)])
    # Lines are judged before n-grams; here there is one.
    stage = GopherRepetition(max_duplicate_lines=1, max_duplicate_line_characters=1)

    assert stage.clean(text) == plainly(text)


LISTED = ["赌场", "casino", "no", "赌", "casino royale", "é"]


@given(
    st.lists(st.sampled_from(["赌", "场", "casino", " ", "royale", "no", "x", ".", "é", "Casino"]), max_size=25),
    st.integers(0, 3),
)
@settings(max_examples=200)
def test_listed_words_are_found_as_a_search_of_each_finds_them(parts: list[str], most: int) -> None:
    (stage,) = build_stages([StageSpec("words", {"words": LISTED, "max_hits": most})])
    assert isinstance(stage, Stage)
    text = "".join(parts)
    spaced = r"[^\W_一-鿿]"
    pattern = "|".join(
        rf"(?<!{spaced}){word}(?!{spaced})" if word.isascii() else word
        for word in sorted(LISTED, key=len, reverse=True)
    )
    hits = len(re.findall(pattern, text.lower()))

    assert stage.clean(text) == (Dropped("listed words") if hits > most else text)


@given(st.text(st.characters(exclude_characters="@", exclude_categories=["Nd", "Cs"]), max_size=200))
@settings(max_examples=60)
def test_text_without_digits_and_addresses_has_nothing_to_mask(text: str) -> None:
    (stage,) = build_stages([StageSpec("pii")])
    assert isinstance(stage, Stage)
    assert stage.clean(text) == text


@given(
    st.lists(st.sampled_from(["13812345678", "8.8.8.8", "+1 2 3", "x", "\n", "555-123-4567", " ", "号"]), max_size=20)
)
def test_numbers_are_masked_in_a_line_as_in_the_line_alone(parts: list[str]) -> None:
    (stage,) = build_stages([StageSpec("pii")])
    assert isinstance(stage, Stage)
    text = "".join(parts)

    assert stage.clean(text) == "\n".join(str(stage.clean(line)) for line in text.split("\n"))


def test_the_kinds_of_characters_are_pythons() -> None:
    points = np.arange(0x110000, dtype=np.uint32)
    kinds = kinds_of(points)
    letters = np.array([chr(point).isalpha() for point in range(0x110000)])

    assert np.array_equal((kinds & 2) != 0, letters)


@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=12), max_size=8),
    st.sampled_from(
        [("Sentence number {}.", " "), ("Sentence number {}.", "\n\n"), ("这是第{}句。", ""), ("这是第{}句！", "\n")]
    ),
)
@settings(max_examples=150)
def test_of_equal_runs_of_three_sentences_all_but_the_first_go(
    documents: list[list[int]], writing: tuple[str, str]
) -> None:
    form, between = writing
    specs = [StageSpec("repeated_spans")]
    cleaner, report = Cleaner(specs), CleaningReport(specs)
    found: list[list[int]] = []
    for numbers in documents:
        text, trace = cleaner.clean(between.join(form.format(number) for number in numbers))
        verdict = report.judge(trace)
        left = (verdict.text or text or "") if verdict.stays else ""
        found.append([int(number) for number in re.findall(r"\d", left)])

    seen: set[tuple[int, ...]] = set()
    for numbers, left in zip(documents, found, strict=True):
        runs = [tuple(numbers[at : at + 3]) for at in range(len(numbers) - 2)]
        repeated = [run in seen or run in runs[:at] for at, run in enumerate(runs)]
        gone = {at + offset for at, again in enumerate(repeated) if again for offset in range(3)}
        assert left == [number for at, number in enumerate(numbers) if at not in gone]
        seen |= {run for at, run in enumerate(runs) if gone.isdisjoint(range(at, at + 3))}


@given(st.lists(st.sets(st.integers(1, 2**64 - 1), max_size=50), max_size=8), st.sets(st.integers(1, 2**64 - 1)))
def test_a_set_of_hashes_has_what_was_put_in_and_nothing_else(batches: list[set[int]], others: set[int]) -> None:
    table, known = SeenHashes(), set[int]()
    for batch in batches:
        table.add(np.array(sorted(batch - known), np.uint64))
        known |= batch
    asked = np.array(sorted(known | others), np.uint64)

    assert table.have(asked).tolist() == [int(value) in known for value in asked]


def test_a_set_of_hashes_grows() -> None:
    table = SeenHashes()
    hashes = np.arange(1, 100_001, dtype=np.uint64)
    for part in np.array_split(hashes, 7):
        table.add(part)

    assert table.have(hashes).all()
    assert not table.have(hashes + np.uint64(100_000)).any()
