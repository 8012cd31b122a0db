"""Words that a manifest's fields choose from."""

from enum import StrEnum


class Kind(StrEnum):
    """What a job does; each kind is done by one service."""

    tokenizer = "tokenizer"
    tokenize = "tokenize"
    pretrain = "pretrain"
    finetune = "finetune"
    plan = "plan"
    generate = "generate"
    convert = "convert"
    evaluate = "evaluate"
    deploy = "deploy"
    gather = "gather"
    judge = "judge"
    release = "release"
    answer = "answer"
    pipeline = "pipeline"


class Precision(StrEnum):
    """Number format of training.

    `auto`: bf16 with fp32 master weights where the hardware computes it, else fp32. `fp16` scales the loss and needs
    CUDA.
    """

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class RopePrecision(StrEnum):
    """What rotary angles are computed in.

    `fp32`: exactly. `bf16`: all in bf16, as the original trained its models with `--bf16`. `bf16_frequencies`: the
    frequencies alone, as its Hugging Face code has them from files that store them in bf16.
    """

    fp32 = "fp32"
    bf16 = "bf16"
    bf16_frequencies = "bf16_frequencies"


class Recompute(StrEnum):
    """What the backward pass computes again instead of keeping: nothing, attention alone, or whole layers."""

    none = "none"
    selective = "selective"
    full = "full"


class AttentionBackend(StrEnum):
    """Who computes attention. `auto`: flash-attn on CUDA where it is installed, else torch's own."""

    auto = "auto"
    sdpa = "sdpa"
    flash = "flash"


class BadStep(StrEnum):
    """What is done about a step that went wrong: nothing, leave it out, go back to the last state, end the run."""

    ignore = "ignore"
    skip = "skip"
    rollback = "rollback"
    stop = "stop"


class FinetuneMethod(StrEnum):
    """What fine-tuning changes: every weight, or low-rank additions to some matrices."""

    full = "full"
    lora = "lora"


class Packing(StrEnum):
    """How fine-tuning fills samples: with whole documents, or by cutting the stream of them as pretraining does."""

    documents = "documents"
    stream = "stream"


class CostModel(StrEnum):
    """How a plan counts. `exact`: every matrix of this network; `paper`: the formulas as printed there."""

    exact = "exact"
    paper = "paper"


class Device(StrEnum):
    """Kind of device a rank computes on. `auto`: CUDA where there is one, else the processor."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Launcher(StrEnum):
    """How ranks are started."""

    local = "local"
    hostfile = "hostfile"
    slurm = "slurm"
    kubernetes = "kubernetes"


class Layout(StrEnum):
    """A way to lay a model out in files."""

    native = "native"
    megatron = "megatron"
    huggingface = "huggingface"


class WeightFormat(StrEnum):
    """How a Hugging Face folder packs its tensors: safetensors, or the older pickled `.bin`."""

    safetensors = "safetensors"
    bin = "bin"


class DocumentMode(StrEnum):
    """What one document is.

    `lines`: a line; `files`: a file; `auto`: a line of `.txt`, a record of `.jsonl`, `.csv` and `.parquet`, the file
    elsewhere.
    """

    auto = "auto"
    lines = "lines"
    files = "files"


class SpecialStrings(StrEnum):
    """What `<sep>`, `<eod>` and their like in a text are: the special tokens, or text like any other."""

    honour = "honour"
    escape = "escape"


class OnError(StrEnum):
    """What is done about text that cannot be read: the job fails, or it is left out and counted."""

    fail = "fail"
    skip = "skip"


class TokenizerAlgorithm(StrEnum):
    """SentencePiece's training algorithms."""

    unigram = "unigram"
    bpe = "bpe"


class Decay(StrEnum):
    """Shape of the learning rate after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class Profile(StrEnum):
    """How tasks are asked and scored: `yuan` as the original did, `strict` without the holes of that."""

    yuan = "yuan"
    strict = "strict"


class Answering(StrEnum):
    """How a model answers: it writes (`generate`), or the likeliest of the given answers is its own (`likelihood`)."""

    generate = "generate"
    likelihood = "likelihood"
