"""Training a tokenizer with SentencePiece: options, the process it runs in, its progress and its errors.

The options are those of the original's model (YUAN_FACTS B6): no normalisation, so that text comes back as it was;
digits one by one; bytes for what no piece covers; a dummy prefix.
"""

import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from yuan_corpus import special_tokens
from yuan_corpus.errors import TextError, VocabularyError
from yuan_corpus.files import replace_durably
from yuan_corpus.tokenizer import MODEL_FILE_NAME, Tokenizer
from yuan_corpus.tokenizer_merging import Algorithm, special_ids_of
from yuan_corpus.training_process import FAILURE
from yuan_corpus.training_text import LineSampler, training_lines
from yuan_events import EventSink, Interrupted, Message, NullSink, Progress, WorkFailed

SMALLEST_VOCABULARY = 1 + len(special_tokens.SPECIAL_TOKENS) + 256
"""`<unk>`, special tokens and byte pieces, before any text has a piece."""

_TEXT_FILE = "text.txt"
_MODEL_PREFIX = "model"
# Thread counts change the order of floating-point sums and with it pieces: the same everywhere, not one a core.
_THREADS = 16
_POLL_SECONDS = 0.2
_SPACE = "▁"  # as pieces have it
# SentencePiece's default, for rich character sets: this share of a text's characters are pieces of their own.
_COVERAGE = 0.9995
# Field 3 of ModelProto (normalizer_spec), in it field 3 (add_dummy_prefix) = true; a later value replaces an earlier.
_WITH_DUMMY_PREFIX = b"\x1a\x02\x18\x01"


class _TooManyCharacters(Exception):
    """The characters to cover are more than the vocabulary has room for; smallest: the vocabulary that has."""

    def __init__(self, smallest: int) -> None:
        super().__init__(smallest)
        self.smallest = smallest


def train_tokenizer(
    documents: Iterable[str],
    output_folder: Path,
    algorithm: Algorithm,
    vocab_size: int,
    *,
    sampler: LineSampler | None = None,
    sink: EventSink | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    threads: int = _THREADS,
) -> Tokenizer:
    """Trains a tokenizer and writes its folder: `tokenizer.model` and `special_tokens.json`.

    The same documents, options and threads give the same bytes, on any machine. Where vocab_size has no room for nearly
    all characters of the text, the rarest are left to bytes, and the sink is told.

    Args:
        documents: text to learn from.
        output_folder: exists; nothing but the two files is left there.
        algorithm: unigram or bpe.
        vocab_size: pieces in all, with special tokens and bytes.
        sampler: draws the lines that are learnt from; None: all are.
        sink: gets progress in percent.
        should_stop: asked several times a second.
        threads: of SentencePiece.

    Raises:
        TextError: if there is no text.
        VocabularyError: if the text has fewer pieces than vocab_size, or that has no room for a single character.
        Interrupted: if `should_stop()`.
        WorkFailed: if the disk is full or SentencePiece fails for a reason of its own.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise VocabularyError(
            f"vocab_size: {vocab_size} is too small: special tokens and bytes alone are {SMALLEST_VOCABULARY}"
        )
    sink = sink or NullSink()
    lines = training_lines(documents, sampler or LineSampler(None, 0, 0))
    try:
        with tempfile.TemporaryDirectory(prefix=".training-", suffix=".tmp", dir=output_folder) as name:
            scratch = Path(name)
            sink.emit(Progress("train tokenizer", 0, 100, "%", "reading text"))
            if not _write_lines(lines, scratch / _TEXT_FILE, should_stop):
                raise TextError("there is no text to train a tokenizer on; all of it is whitespace")
            _train(_options(algorithm, vocab_size, threads), scratch, sink, should_stop)
            temporary = scratch / MODEL_FILE_NAME
            temporary.write_bytes((scratch / f"{_MODEL_PREFIX}.model").read_bytes() + _WITH_DUMMY_PREFIX)
            special_tokens.write_special_tokens(output_folder, special_ids_of(temporary.read_bytes()))
            replace_durably(temporary, output_folder / MODEL_FILE_NAME)
    except OSError as error:
        raise WorkFailed(f"{output_folder}: the tokenizer cannot be written ({error.strerror or error})") from error
    sink.emit(Progress("train tokenizer", 100, 100, "%", f"{vocab_size} pieces"))
    return Tokenizer.load(output_folder)


def _options(algorithm: Algorithm, vocab_size: int, threads: int) -> dict[str, Any]:
    """Returns SentencePiece's options; paths are relative, since the model records them."""
    others = [
        string for string in special_tokens.SPECIAL_TOKENS if string not in {special_tokens.EOD, special_tokens.PAD}
    ]
    return {
        "input": _TEXT_FILE,
        "model_prefix": _MODEL_PREFIX,
        "model_type": algorithm.value,
        "vocab_size": vocab_size,
        "num_threads": threads,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,  # training_text.py puts the spaces; encoding gets it by _WITH_DUMMY_PREFIX
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "byte_fallback": True,
        "character_coverage": _COVERAGE,
        # The space that encoding puts in front: without a piece (Chinese text may have no space) it would be bytes, and
        # decoding would not know it again.
        "required_chars": _SPACE,
        "unk_id": 0,
        "eos_id": 1,
        "eos_piece": special_tokens.EOD,
        "pad_id": 2,
        "pad_piece": special_tokens.PAD,
        "bos_id": -1,
        "control_symbols": others,
        "minloglevel": 0,
    }


def _train(options: dict[str, Any], scratch: Path, sink: EventSink, should_stop: Callable[[], bool]) -> None:
    """Trains; where the vocabulary has no room for all characters, again without the rarest."""
    text = scratch / _TEXT_FILE
    vocab_size = int(options["vocab_size"])
    counts: Counter[str] = Counter()
    covered = smallest = 0
    while True:
        try:
            _run(options, scratch, _ProgressOfLog(sink, vocab_size), should_stop)
            return
        except _TooManyCharacters as error:
            if not counts:
                counts = _count_characters(text)
                covered = _characters_within(sorted(counts.values(), reverse=True), _COVERAGE)
                smallest = error.smallest
            # SentencePiece says by how many they are too many; its sums are float32, so once may not be enough.
            covered -= error.smallest - vocab_size
        if covered < 1:
            raise VocabularyError(
                f"vocab_size: {vocab_size} is too small for the characters of this text; take {smallest} or more"
            )
        kept = sorted(counts, key=lambda character: (character != " ", -counts[character], character))[:covered]
        _cut_at_others(text, kept)
        # SentencePiece takes no coverage below 0.98; there are only characters to cover left.
        options = options | {"character_coverage": 1.0}
        share = sum(counts[character] for character in kept) / counts.total()
        sink.emit(
            Message(
                f"vocab_size {vocab_size} has no room for all characters of this text: the {covered:,} most frequent, "
                f"{share:.1%} of it, become pieces, the others are written as bytes; {smallest} would have room",
                "warning",
            )
        )


def _count_characters(path: Path) -> Counter[str]:
    """Returns how often each character stands in a text."""
    counts: Counter[str] = Counter()
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            counts.update(line.removesuffix("\n"))
    return counts


def _characters_within(counts: list[int], coverage: float) -> int:
    """Returns how many characters SentencePiece takes: the most frequent, until their share is the coverage."""
    total, before = sum(counts), 0
    for number, count in enumerate(counts):
        if before / total >= coverage:
            return number
        before += count
    return len(counts)


def _cut_at_others(path: Path, kept: list[str]) -> None:
    """Cuts the lines of a text where a character stands that is not kept: no piece reaches across one anyway."""
    others = re.compile(f"[^{re.escape(''.join(kept))}]+")
    cut = path.with_suffix(".cut")
    with path.open(encoding="utf-8", newline="\n") as file, cut.open("w", encoding="utf-8", newline="\n") as output:
        for line in file:
            for part in others.split(line):  # a line's end is not kept either
                if part.strip():
                    output.write(part + "\n")
    cut.replace(path)


def _write_lines(lines: Iterable[str], path: Path, should_stop: Callable[[], bool]) -> int:
    """Writes lines to a file and returns how many there are."""
    count = 0
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for line in lines:
            if count % 4096 == 0 and should_stop():
                raise Interrupted("interrupted; run it again to begin this step anew")
            file.write(line + "\n")
            count += 1
    return count


def _run(options: dict[str, Any], scratch: Path, progress: "_ProgressOfLog", should_stop: Callable[[], bool]) -> None:
    """Runs the training process to its end, or kills it."""
    # A blocked signal stays blocked in a process started now: Ctrl-C is for this process, which ends that one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "yuan_corpus.training_process", json.dumps(options)],
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    last_lines: list[str] = []
    with process:
        try:
            for line in _log_lines(process, should_stop):
                progress.read(line)
                last_lines = [*last_lines[-20:], line]
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise _failure(process.returncode, last_lines, int(options["vocab_size"]))


def _log_lines(process: subprocess.Popen[bytes], should_stop: Callable[[], bool]) -> Iterator[str]:
    """Yields the lines of a process's log until it closes that."""
    assert process.stderr is not None  # noqa: S101  # it was opened as a pipe
    descriptor = process.stderr.fileno()
    waiting = b""
    while True:
        if should_stop():
            raise Interrupted("interrupted; run it again to begin this step anew")
        if not select.select([descriptor], [], [], _POLL_SECONDS)[0]:
            continue
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)


def _failure(code: int, log: list[str], vocab_size: int) -> Exception:
    """Returns what a failed training means for the user."""
    if code < 0:
        why = "; was the machine out of memory? give it less text (sample_megabytes)" if code == -signal.SIGKILL else ""
        return WorkFailed(f"tokenizer training was ended by signal {-code}{why}")
    reason = next((line.removeprefix(FAILURE) for line in reversed(log) if line.startswith(FAILURE)), "")
    if found := re.search(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)", reason):
        return VocabularyError(
            f"vocab_size: {vocab_size} is more than this text has pieces for; the largest possible is {found[1]}, "
            "or give it more text"
        )
    if found := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", reason):
        return _TooManyCharacters(int(found[1]))
    return WorkFailed(f"SentencePiece failed: {reason or ' '.join(log[-3:]) or f'exit code {code}'}")


class _ProgressOfLog:
    """Reads how far SentencePiece is from its log; a log that reads otherwise only makes the bar stand still."""

    _PHASES = ((r"Loading corpus", "loading"), (r"Extracting seed|Tokenizing input", "counting"))
    _EM = re.compile(r"EM sub_iter=\d+ size=(\d+)")
    _MERGED = re.compile(r"merges=(\d+)")

    def __init__(self, sink: EventSink, vocab_size: int) -> None:
        self._sink = sink
        self._vocab_size = vocab_size
        self._first_size = 0

    def read(self, line: str) -> None:
        """Takes a line of the log."""
        if found := self._EM.search(line):
            # Unigram begins with very many pieces and keeps three quarters each time, down to 1.1 vocab_size.
            size = int(found[1])
            self._first_size = self._first_size or size
            span = math.log(max(self._first_size / (1.1 * self._vocab_size), 1.001))
            self._emit(100 * math.log(self._first_size / size) / span, f"{size} candidates")
        elif found := self._MERGED.search(line):
            self._emit(100 * int(found[1]) / self._vocab_size, f"{found[1]} merges")
        else:
            for pattern, words in self._PHASES:
                if re.search(pattern, line):
                    self._emit(0, words)

    def _emit(self, percent: float, detail: str) -> None:
        self._sink.emit(Progress("train tokenizer", round(min(99.0, max(0.0, percent)), 1), 100, "%", detail))
