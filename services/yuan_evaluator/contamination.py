"""Whether a model has seen the questions: 13-grams that they share with the datasets it was trained on.

Which datasets those are is in the lineage of artifacts: those of the model, and of the models that it was made from.
GPT-3's rule (arXiv 2005.14165, appendix C): an item of an n-gram is a Han character or another word, without case and
punctuation; texts that are shorter cannot be found.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from yuan_corpus import Tokenizer, open_dataset
from yuan_corpus.cleaning.contamination import grams_of
from yuan_corpus.statistics import DatasetStatistics
from yuan_events import EventSink, InputError, Message, Progress, YuanError, one_line
from yuan_jobs import ArtifactHandle

NGRAM = 13
_BATCH = 200

Open = Callable[[str], ArtifactHandle]


@dataclass
class Seen:
    """What was found for one task.

    Attributes:
        items: ids of questions that share an n-gram with the training text.
        too_short: questions that have none.
        total: questions.
    """

    items: set[str] = field(default_factory=set[str])
    too_short: int = 0
    total: int = 0


@dataclass(frozen=True)
class Lineage:
    """The text that a model was trained on, as far as artifacts tell.

    Attributes:
        datasets: with the tokenizer that cut each, by reference.
        unknown: why some of it is not known; empty: all is.
    """

    datasets: Mapping[str, tuple[ArtifactHandle, Tokenizer]]
    unknown: tuple[str, ...] = ()


def lineage(model: ArtifactHandle, open_artifact: Open | None) -> Lineage:
    """Returns the datasets of a model and of the models that it came from."""
    datasets: dict[str, tuple[ArtifactHandle, Tokenizer]] = {}
    unknown: list[str] = []
    waiting, known = [model], {model.reference}
    while waiting:
        handle = waiting.pop()
        inputs: Mapping[str, Any] = handle.metadata.get("inputs", {})
        references = [str(one["artifact"]) for one in inputs.values() if isinstance(one, dict) and "artifact" in one]
        if handle.kind == "model" and not any(name.startswith(("dataset/", "model/")) for name in references):
            unknown.append(f"{handle.reference} does not say what it was trained on")
        for reference in references:
            if reference in known or not reference.startswith(("dataset/", "model/")):
                continue
            known.add(reference)
            if open_artifact is None:
                unknown.append(f"{reference} cannot be opened here")
                continue
            try:
                found = open_artifact(reference)
                if found.kind == "model":
                    waiting.append(found)
                else:
                    datasets[reference] = found, _tokenizer(found, model, open_artifact)
            except YuanError as error:
                unknown.append(one_line(error))
    return Lineage(datasets, tuple(unknown))


def _tokenizer(dataset: ArtifactHandle, model: ArtifactHandle, open_artifact: Open) -> Tokenizer:
    digest = DatasetStatistics.read(dataset.path).tokenizer_digest
    inputs: Mapping[str, Any] = dataset.metadata.get("inputs", {})
    named = inputs.get("tokenizer", {}).get("artifact")
    places = [model.path / "tokenizer", model.path, *([open_artifact(str(named)).path] if named else [])]
    for place in places:
        if (place / "tokenizer.model").is_file():
            tokenizer = Tokenizer.load(place)
            if tokenizer.digest == digest:
                return tokenizer
    raise InputError(f"{dataset.reference}: the tokenizer that cut it is not known any more")


def find_seen(
    questions: Mapping[str, Iterable[tuple[str, str]]],
    found: Lineage,
    sink: EventSink,
    stop_if_asked: Callable[[], None],
) -> dict[str, Seen]:
    """Looks for every question in every dataset.

    Args:
        questions: id and text of each, by task.
        found: the training text.
        sink: takes progress.
        stop_if_asked: called between documents; may raise.
    """
    seen = {task: Seen() for task in questions}
    owners: dict[int, set[tuple[str, str]]] = {}
    for task, items in questions.items():
        for name, text in items:
            grams = grams_of(text, NGRAM).tolist()
            seen[task].total += 1
            seen[task].too_short += not grams
            for gram in grams:
                owners.setdefault(gram, set()).add((task, name))
    if owners and found.datasets:
        wanted = np.array(sorted(owners), np.uint64)
        for reference, (handle, tokenizer) in found.datasets.items():
            dataset = open_dataset(handle.path)
            total = len(dataset)
            for number in range(total):
                if number % _BATCH == 0:
                    stop_if_asked()
                    sink.emit(Progress("contamination", number, total, "documents", reference))
                grams = grams_of(tokenizer.decode(dataset[number].tolist()), NGRAM)
                for gram in grams[np.isin(grams, wanted)].tolist():
                    for task, name in owners[gram]:
                        seen[task].items.add(name)
            sink.emit(Progress("contamination", total, total, "documents", reference))
    for reason in found.unknown:
        sink.emit(Message(f"contamination: {reason}", level="warning"))
    return seen
