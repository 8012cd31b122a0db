"""What is asked of a model and what it answered, kept so that nothing is asked twice: by run, by model for all runs.

The key of an answer is the hash of the model, the prompt and the sampling (or the continuation whose likelihood it is).
A run that was killed finds its own answers in its journal, another run of this model finds them in the home's cache.
"""

import hashlib
import json
import sqlite3
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yuan_rpc.inference.v1 import inference_pb2


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        max_tokens: at most.
        temperature: 0 takes the likeliest token.
        top_p: draw from the likeliest that reach it.
        top_k: draw from so many; 0: all.
        seed: of the drawing; None where nothing is drawn.
        stop_token_ids: end the answer.
        ignore_eos: go on beyond `<eod>`.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def message(self) -> inference_pb2.SamplingParams:
        """Returns it as the inference service takes it."""
        params = inference_pb2.SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
        )
        if self.seed is not None:
            params.seed = self.seed
        return params


@dataclass(frozen=True)
class Ask:
    """One request: the text that the model goes on from, and how."""

    prompt: str
    sampling: Sampling

    def key(self, model: str) -> str:
        """Returns the hash of model, prompt and sampling."""
        text = json.dumps([model, self.prompt, asdict(self.sampling)], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Likelihood:
    """Another request: how likely a continuation is after a text; nothing is drawn."""

    prompt: str
    continuation: str

    def key(self, model: str) -> str:
        """Returns the hash of model, prompt and continuation."""
        text = json.dumps([model, "likelihood", self.prompt, self.continuation], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


Asked = Ask | Likelihood
"""What a model is asked."""


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the continuation.
        cut: whether it had become too long.
        tokens: that it has.
        prompt_tokens: that the prompt has.
        logprob: of the continuation whose likelihood was asked for, a natural logarithm; None where none was.
        error: why there is none; empty where there is one.
    """

    text: str = ""
    cut: bool = False
    tokens: int = 0
    prompt_tokens: int = 0
    logprob: float | None = None
    error: str = ""


class AnswerStore:
    """Answers by key; close it. Refused requests are kept for the run alone: another version may take them."""

    def __init__(self, journal: Path, cache: Path | None, model: str) -> None:
        """Reads what the run has already.

        Args:
            journal: the run's file; what a process that was killed wrote half is passed over.
            cache: a SQLite file shared by all runs; None: none.
            model: hash of the model.
        """
        self._model = model
        self._known: dict[str, Reply] = {}
        self.resumed = 0
        self.cached = 0
        with suppress(FileNotFoundError):
            self._read(journal)
        self._journal = journal.open("a", encoding="utf-8")
        if self._journal.tell() and not journal.read_bytes().endswith(b"\n"):
            self._journal.write("\n")
        self._cache = _open_cache(cache) if cache is not None else None

    def _read(self, journal: Path) -> None:
        for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                row: dict[str, Any] = json.loads(line)
                key = row.pop("key")
                self._known[key] = Reply(**row)
        self.resumed = len(self._known)

    def find(self, ask: Asked) -> Reply | None:
        """Returns what was answered before."""
        key = ask.key(self._model)
        reply = self._known.get(key)
        if reply is None and self._cache is not None:
            row = self._cache.execute("SELECT reply FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                reply = Reply(**json.loads(row[0]))
                self.cached += 1
                self._note(key, reply)
        return reply

    def keep(self, ask: Asked, reply: Reply) -> None:
        """Writes an answer down at once."""
        key = ask.key(self._model)
        self._note(key, reply)
        if self._cache is not None and not reply.error:
            text = json.dumps(asdict(reply), ensure_ascii=False)
            with suppress(sqlite3.OperationalError):  # locked or full: a cache may miss an answer
                self._cache.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, self._model, text))

    def _note(self, key: str, reply: Reply) -> None:
        self._known[key] = reply
        self._journal.write(json.dumps({"key": key, **asdict(reply)}, ensure_ascii=False) + "\n")
        self._journal.flush()

    def close(self) -> None:
        """Closes both files."""
        self._journal.close()
        if self._cache is not None:
            self._cache.close()


def _open_cache(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT, reply TEXT)")
    except (sqlite3.Error, OSError):  # damaged, or on a disk that is full: it is only a cache
        return None
    return connection
