"""How fast each stage of cleaning is, against the encoder that the text goes to next.

    python benchmarks/cleaning.py [--tokenizer FOLDER] [--megabytes 1.5] [--rounds 3] [STAGE …]

Text: Chinese (三国演义), English (Shakespeare, 6,000 characters a document), Python (the standard library). Every stage
with its defaults, both halves of it (a worker's, and the collector's for duplicates), in turn with the encoder, on one
core; the median of the rounds is printed in MB/s of UTF-8, and how many times the encoder's speed the slowest of the
three is. The tokenizer is trained on the text here unless one is given.
The encoder has the text for the first time in each round, in blocks as in a job.
Slower than it may be, because of what they stand on: `near_duplicates` (datasketch's permutations),
`language` (py3langid), `python_compiles` (the interpreter's compiler).
"""

import argparse
import copy
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import real_texts

from yuan_corpus import Algorithm, Tokenizer, train_tokenizer
from yuan_corpus.cleaning.pipeline import STAGES, Cleaner, CleaningReport, StageSpec

BY_LIBRARY = {"near_duplicates": "datasketch", "language": "py3langid", "python_compiles": "the compiler"}
SCENE = 6000
"""Characters of an English document."""
BLOCK = 64
"""Documents that are encoded at once."""

Run = Callable[[Sequence[str]], object]
Contender = Callable[[], Run]
"""Makes ready what takes documents and the time of which is measured."""


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all")
    arguments = parser.parse_args()
    plays = [play[at : at + SCENE] for play in real_texts.english_plays() for at in range(0, len(play), SCENE)]
    texts = {
        "Chinese": portion(real_texts.chinese_chapters(), arguments.megabytes),
        "English": portion(plays, arguments.megabytes),
        "Python": portion(real_texts.python_modules(), arguments.megabytes),
    }
    tokenizer = Tokenizer.load(arguments.tokenizer) if arguments.tokenizer else trained(texts)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Path(folder) / "benchmark.txt"
        # Text of the same kind that is not in it: what is to be found costs less than what is not.
        benchmark.write_text("\n".join(text.replace("\n", " ") for text in real_texts.english_plays()[-3:]), "utf-8")
        contenders: dict[str, Contender] = {"encoder": encoder(tokenizer)}
        for name in arguments.stages or STAGES:
            contenders[name] = stage(StageSpec(name, options_of(name, benchmark)))
        speeds = measured(contenders, texts, arguments.rounds)
    print_table(speeds, list(texts))


def portion(documents: Sequence[str], megabytes: float) -> list[str]:
    """Returns the first documents, about as many megabytes of UTF-8."""
    taken: list[str] = []
    size = 0
    for document in documents:
        if size >= megabytes * 1e6:
            break
        taken.append(document)
        size += len(document.encode())
    return taken


def trained(texts: dict[str, list[str]]) -> Tokenizer:
    """Returns a tokenizer of all three texts."""
    with tempfile.TemporaryDirectory() as folder:
        documents = [document for part in texts.values() for document in part]
        return train_tokenizer(documents, Path(folder), Algorithm.BPE, 16_000)


def options_of(name: str, benchmark: Path) -> dict[str, object]:
    """Returns the options that a stage has no default for."""
    # Five thousand words, none of which is there.
    return {
        "language": {"keep": ["zh", "en"]},
        "words": {"words": [f"nonword{n}" for n in range(2500)] + [chr(0x4E00 + n) * 3 for n in range(2500)]},
        "decontamination": {"files": [str(benchmark)]},
    }.get(name, {})


def encoder(tokenizer: Tokenizer) -> Contender:
    """Returns the encoder as a tokenize job calls it; it has seen none of the text."""

    def ready() -> Run:
        fresh = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 - without the segments that it remembers
        fresh.encode_documents(["warm up"])

        def run(documents: Sequence[str]) -> None:
            for start in range(0, len(documents), BLOCK):
                fresh.encode_documents(documents[start : start + BLOCK])

        return run

    return ready


def stage(spec: StageSpec) -> Contender:
    """Returns a run over documents through one stage; the collector's half of it begins with none known."""
    cleaner = Cleaner([spec])
    cleaner.clean("warm up")
    began = CleaningReport([spec])

    def ready() -> Run:
        report = copy.deepcopy(began)

        def run(documents: Sequence[str]) -> None:
            for document in documents:
                report.take(cleaner.clean(document)[1])

        return run

    return ready


def measured(contenders: dict[str, Contender], texts: dict[str, list[str]], rounds: int) -> dict[str, dict[str, float]]:
    """Returns MB/s of each contender on each text: the median of rounds in which all take turns."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for language, documents in texts.items():
            for name, ready in contenders.items():
                run = ready()
                began = time.process_time()
                run(documents)
                seconds.setdefault((name, language), []).append(time.process_time() - began)
    sizes = {
        language: sum(len(document.encode()) for document in documents) / 1e6 for language, documents in texts.items()
    }
    return {
        name: {language: sizes[language] / statistics.median(seconds[name, language]) for language in texts}
        for name in contenders
    }


def print_table(speeds: dict[str, dict[str, float]], languages: Sequence[str]) -> None:
    """Prints MB/s, and the least ratio to the encoder."""
    print(f"{'MB/s':20}" + "".join(f"{language:>10}" for language in languages) + f"{'/ encoder':>12}")
    for name, row in speeds.items():
        ratio = min(row[language] / speeds["encoder"][language] for language in languages)
        why = f"  ({BY_LIBRARY[name]})" if ratio < 1 and name in BY_LIBRARY else "  slower!" if ratio < 1 else ""
        print(f"{name:20}" + "".join(f"{row[language]:10.1f}" for language in languages) + f"{ratio:12.2f}{why}")


if __name__ == "__main__":
    main()
