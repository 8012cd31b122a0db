"""Training with SentencePiece: what comes out, that it is repeatable, and what is said when it cannot be."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from yuan_corpus import Algorithm, TextError, Tokenizer, TokenizerError, VocabularyError, train_tokenizer
from yuan_corpus.training_text import LONGEST_LINE, LineSampler, training_lines
from yuan_events import Interrupted, Message, Progress, RecordingSink

SMALL = ["the quick brown fox jumps over the lazy dog again and again\n" * 3, "狐狸跳过懒狗。" * 5]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_trained_tokenizer_has_the_asked_size_and_gives_text_back(
    tmp_path: Path, texts: list[str], algorithm: Algorithm
) -> None:
    tokenizer = train_tokenizer(texts, tmp_path, algorithm, 700)

    assert tokenizer.vocab_size == 700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["special_tokens.json", "tokenizer.model"]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_twice_in_different_folders_gives_the_same_bytes(tmp_path: Path, texts: list[str]) -> None:
    digests: set[str] = set()
    for name in ("one", "another folder"):
        folder = tmp_path / name
        folder.mkdir()
        sampler = LineSampler(60_000, sum(map(len, texts)), seed=3)
        digests.add(train_tokenizer(texts, folder, Algorithm.UNIGRAM, 500, sampler=sampler).digest)

    assert len(digests) == 1


def test_progress_rises_to_a_hundred_percent(tmp_path: Path, texts: list[str]) -> None:
    sink = RecordingSink()
    train_tokenizer(texts, tmp_path, Algorithm.BPE, 900, sink=sink)
    percents = [event.done for event in sink.events if isinstance(event, Progress)]

    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] == 100
    assert len(percents) > 4


def test_sentencepieces_log_does_not_reach_the_terminal(
    tmp_path: Path, texts: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(texts, tmp_path, Algorithm.BPE, 500)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_vocabulary_too_large_for_the_text_names_the_largest_possible(tmp_path: Path, algorithm: Algorithm) -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size: 5000 .* the largest possible is (\d+)") as caught:
        train_tokenizer(SMALL, tmp_path, algorithm, 5000)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    largest = int(str(caught.value).split("possible is ")[1].split(",")[0])
    assert train_tokenizer(SMALL, tmp_path, algorithm, largest).vocab_size == largest


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="vocab_size: 200 is too small: special tokens and bytes alone are 273"):
        train_tokenizer(SMALL, tmp_path, Algorithm.BPE, 200)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_where_the_characters_do_not_fit_the_rarest_are_left_to_bytes(tmp_path: Path, algorithm: Algorithm) -> None:
    # As in Chinese text: thousands of characters, most of them rare.
    texts = ["".join(chr(0x4E00 + rank) * (1500 // (rank + 1)) for rank in range(1000)) for _ in range(3)]
    sink = RecordingSink()
    tokenizer = train_tokenizer(texts, tmp_path, algorithm, 500, sink=sink)

    assert tokenizer.vocab_size == 500
    for text in (texts[0], chr(0x4E00), chr(0x4E00 + 999)):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(chr(0x4E00))) < len(tokenizer.encode(chr(0x4E00 + 999)))
    warnings = [event.text for event in sink.events if isinstance(event, Message)]
    assert warnings
    assert all(line.startswith("vocab_size 500 has no room for all characters of this text") for line in warnings)


def test_a_vocabulary_with_room_for_no_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"vocab_size: 273 is too small for the characters .* take \d+ or more"):
        train_tokenizer(SMALL, tmp_path, Algorithm.BPE, 273)


@pytest.mark.parametrize("documents", [[], [""], [" \n\n", "<sep>"]])
def test_no_text_is_said(tmp_path: Path, documents: list[str]) -> None:
    with pytest.raises(TextError, match="no text"):
        train_tokenizer(documents, tmp_path, Algorithm.BPE, 300)


def test_training_ends_soon_once_it_is_asked_to_stop(
    tmp_path: Path, texts: list[str], processes_left: Callable[[], list[str]]
) -> None:
    sink = RecordingSink()

    with pytest.raises(Interrupted):
        train_tokenizer(texts, tmp_path, Algorithm.UNIGRAM, 900, sink=sink, should_stop=lambda: len(sink.events) > 1)
    assert list(tmp_path.iterdir()) == []
    assert processes_left() == []


TRAINS_FOR_LONG = """
import random, sys
from pathlib import Path
from yuan_corpus import Algorithm, train_tokenizer
drawn = random.Random(1)
words = ["".join(drawn.choices("abcdefghijklmnop", k=drawn.randint(3, 9))) for _ in range(60000)]
texts = [" ".join(drawn.choices(words, k=12)) for _ in range(60000)]
class Sink:
    def emit(self, event): print(event.detail, flush=True)
train_tokenizer(texts, Path(sys.argv[1]), Algorithm.UNIGRAM, 8000, sink=Sink())
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_whether_training_is_interrupted_or_killed(tmp_path: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINS_FOR_LONG, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "counting":
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    # As a terminal does it: to all processes at once. A kill hits the parent alone.
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.kill()
    _, errors = process.communicate(timeout=120)
    gone, alive = psutil.wait_procs(children, timeout=60)

    assert len(gone) == len(children)
    assert not alive
    assert errors.count("Traceback") == (1 if sent == signal.SIGINT else 0)


def test_the_sampler_draws_evenly_and_never_more_than_its_limit() -> None:
    sampler = LineSampler(100_000, 1_000_000, seed=5)
    taken = [number for number in range(10_000) if sampler.takes(100)]

    assert 99_000 <= 100 * len(taken) <= 100_000
    thirds = [sum(low <= number < low + 3334 for number in taken) for low in (0, 3333, 6666)]
    assert max(thirds) - min(thirds) < 60


def test_the_sampler_with_another_seed_draws_other_lines() -> None:
    samplers = [LineSampler(1000, 100_000, seed) for seed in (1, 2)]

    first, second = ([sampler.takes(100) for _ in range(1000)] for sampler in samplers)
    assert first != second


def test_training_lines_are_what_the_encoder_will_see() -> None:
    document = "def f():\n    return 1\r\n<sep>answer<eod>\n  ▁odd▅ end"
    lines = list(training_lines([document], LineSampler(None, 0, 0)))

    assert lines == [" def f():", "    return 1", " answer", "odd", " end"]


def test_long_lines_are_cut_and_nothing_of_them_is_lost() -> None:
    line = " ".join("word" * (number % 7 + 1) for number in range(2000)) + "字" * 5000
    lines = list(training_lines([line], LineSampler(None, 0, 0)))

    assert "".join(lines) == " " + line
    assert all(len(part) <= LONGEST_LINE and len(part.encode()) < 4192 for part in lines)


def test_a_single_line_longer_than_sentencepieces_limit_is_learnt_from(tmp_path: Path) -> None:
    line = "abracadabra simsalabim hocus pocus " * 3000
    tokenizer: Tokenizer = train_tokenizer([line], tmp_path, Algorithm.BPE, 330)

    assert len(tokenizer.encode("abracadabra simsalabim")) <= 4
