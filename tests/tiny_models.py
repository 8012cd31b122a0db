"""A tokenizer, a dataset and an untrained model that belong together and are made in a second; for several services."""

from pathlib import Path

from yuan_checkpoint import write_native
from yuan_corpus import Algorithm, Tokenizer, tokenize_corpus, train_tokenizer
from yuan_model import Yuan, YuanConfig, initialize_

VOCABULARY = 360
CONTEXT = 64


def write_text(file: Path) -> Path:
    """Writes 300 lines, each a document."""
    words = ["shall", "I", "compare", "thee", "to", "a", "summer's", "day", "你好", "世界", "naïve", "x = y + 1;"]
    lines = [" ".join(words[(start * step) % len(words)] for step in range(4, 14)) for start in range(1, 301)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def make_tokenizer(folder: Path, text: Path) -> Tokenizer:
    folder.mkdir(parents=True)
    return train_tokenizer([text.read_text(encoding="utf-8")], folder, Algorithm.BPE, VOCABULARY, threads=1)


def make_dataset(folder: Path, text: Path, tokenizer: Tokenizer) -> Path:
    folder.mkdir(parents=True)
    tokenize_corpus([text], tokenizer, folder)
    return folder


def make_model(
    folder: Path, eod_token_id: int, *, vocab_size: int = VOCABULARY, seed: int = 5, context: int = CONTEXT
) -> Yuan:
    """Writes a native folder; its first weights are large, so that its continuations vary."""
    config = YuanConfig(vocab_size, 32, 2, 2, 48, context, eod_token_id=eod_token_id, initializer_range=0.3)
    model = Yuan(config)
    initialize_(model, config, seed)
    write_native(folder, config, model.named_parameters())
    return model
