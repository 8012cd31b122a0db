"""Words that a manifest's fields choose from."""

from enum import StrEnum


class Kind(StrEnum):
    """What a job does; each kind is done by one service."""

    tokenizer = "tokenizer"
    tokenize = "tokenize"
    pretrain = "pretrain"
    generate = "generate"
    convert = "convert"
    evaluate = "evaluate"
    deploy = "deploy"
    pipeline = "pipeline"


class Precision(StrEnum):
    """Number format of training. `auto`: bf16 with fp32 master weights where the hardware computes it, else fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    """Kind of device a rank computes on. `auto`: CUDA where there is one, else the processor."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Launcher(StrEnum):
    """How ranks are started."""

    local = "local"


class Layout(StrEnum):
    """A way to lay a model out in files."""

    native = "native"
    huggingface = "huggingface"


class DocumentMode(StrEnum):
    """What one document is. `lines`: a line; `files`: a file; `auto`: a line in `.txt` files, the file elsewhere."""

    auto = "auto"
    lines = "lines"
    files = "files"


class TokenizerAlgorithm(StrEnum):
    """SentencePiece's training algorithms."""

    unigram = "unigram"
    bpe = "bpe"


class Decay(StrEnum):
    """Shape of the learning rate after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
