"""The sections of jobs, one dataclass each, with every field's meaning and unit.

Which job has which sections, and where jobs run, is in `schema.py`; what values may be is in `checks.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from yuan_manifest.choices import (
    Answering,
    AttentionBackend,
    BadStep,
    CostModel,
    Decay,
    DocumentMode,
    FinetuneMethod,
    Layout,
    OnError,
    Packing,
    Precision,
    Profile,
    Recompute,
    RopePrecision,
    SpecialStrings,
    TokenizerAlgorithm,
    WeightFormat,
)


@dataclass
class ModelSection:
    """The network, fields named as in Hugging Face's configs (YUAN_FACTS A1, A2 give the published sizes).

    Attributes:
        vocab_size: rows of the embedding; at least the tokenizer's size.
        hidden_size: width of the residual stream.
        num_hidden_layers: transformer blocks.
        num_attention_heads: heads; must divide hidden_size into an even head dimension.
        intermediate_size: width of each SwiGLU half.
        max_position_embeddings: longest sequence in tokens.
        rms_norm_eps: added to the mean square in every RMSNorm but the localized filter's own (1e-6).
        rope_theta: base of the rotary embedding.
        rope_precision: what its angles are computed in; bf16 as the original trained its models.
        localized_filtering: queries and keys see the locally filtered input (the paper's LFA).
        attention_reset_at_eod: no attention across `<eod>` between packed documents.
        initializer_range: standard deviation of initial weights.
    """

    vocab_size: int = MISSING
    hidden_size: int = MISSING
    num_hidden_layers: int = MISSING
    num_attention_heads: int = MISSING
    intermediate_size: int = MISSING
    max_position_embeddings: int = MISSING
    rms_norm_eps: float = 1.0e-6
    rope_theta: float = 10000.0
    rope_precision: RopePrecision = RopePrecision.fp32
    localized_filtering: bool = True
    attention_reset_at_eod: bool = False
    initializer_range: float = 0.02


@dataclass
class TokenizerFilters:
    """Pieces that a tokenizer leaves out.

    Attributes:
        letters_and_digits: those with a digit, or a letter that is no Han character.
        max_han: those with more Han characters than this; null: no bound.
        keyboard: those with a sign that is on no keyboard of English or Chinese.
    """

    letters_and_digits: bool = False
    max_han: int | None = None
    keyboard: bool = False


@dataclass
class TokenizerSection:
    """How a tokenizer is trained.

    Attributes:
        algorithm: unigram or bpe.
        vocab_size: pieces, special tokens and the 256 byte pieces included; without those of inputs.tokenizers.
        sample_megabytes: text given to the trainer at most, drawn evenly over the corpus; null: all of it.
        seed: of that drawing.
        shards: parts of the text, each with a model of its own; merged by scores weighted with their bytes.
        shard_vocab_size: pieces of a part's model; null: vocab_size.
        filters: pieces that are left out.
        top: pieces that are kept, best first; null: as many as vocab_size has room for.
        added_characters: characters of the text that are no pieces, most frequent first, that are added.
        added_words: files of words, one a line, that are added; globs and folders as in inputs.text.
    """

    algorithm: TokenizerAlgorithm = TokenizerAlgorithm.unigram
    vocab_size: int = 8192
    sample_megabytes: float | None = None
    seed: int = 1234
    shards: int = 1
    shard_vocab_size: int | None = None
    filters: TokenizerFilters = field(default_factory=TokenizerFilters)
    top: int | None = None
    added_characters: int = 0
    added_words: list[str] = field(default_factory=list[str])

    @property
    def merges(self) -> bool:
        """Whether pieces are chosen after training, rather than one model taken as it is."""
        chosen = self.filters != TokenizerFilters() or self.top is not None
        return self.shards > 1 or chosen or self.added_characters > 0 or bool(self.added_words)


@dataclass
class TextInputs:
    """Where text comes from.

    Attributes:
        text: glob patterns or folders; `~` and `**` are understood. A folder means every file below it.
            `python-stdlib:` in front means the standard library of the Python that does the job.
            A URL of fsspec (`s3://…`) is taken alike. Files may be `.gz` or `.zst`.
        exclude: glob patterns of files to leave out.
        documents: what one document is.
        text_field: of the records of `.jsonl`, `.csv` and `.parquet`, holds their text.
        encoding: `utf-8`, another that Python knows, or `auto`: detected for each file.
        on_error: what is done about broken files and records.
    """

    text: list[str] = MISSING
    exclude: list[str] = field(default_factory=list[str])
    documents: DocumentMode = DocumentMode.auto
    text_field: str = "text"
    encoding: str = "utf-8"
    on_error: OnError = OnError.fail


@dataclass
class TokenizerInputs(TextInputs):
    """Text, and other tokenizers: artifacts (`NAME[@VERSION]`), or paths (with a `/`) of SentencePiece models.

    Attributes:
        text: see `TextInputs`; with `sentencepiece` what the report is measured on, or nothing.
        sentencepiece: a model, or its folder, that becomes the tokenizer as it is: nothing is trained.
        tokenizers: whose pieces are taken over, last.
        compare: that the report compares the new one with, beside those.
    """

    text: list[str] = field(default_factory=list[str])
    sentencepiece: str | None = None
    tokenizers: list[str] = field(default_factory=list[str])
    compare: list[str] = field(default_factory=list[str])


@dataclass
class TokenizeInputs(TextInputs):
    """Text, or requests as kind gather made them, and the tokenizer artifact (`NAME[@VERSION]`) that cuts it.

    Attributes:
        text: see `TextInputs`; nothing where there are requests.
        tokenizer: that cuts it.
        requests: whose examples to learn from are cut, one a document, as fine-tuning takes them.
    """

    text: list[str] = field(default_factory=list[str])
    tokenizer: str = MISSING
    requests: str | None = None


@dataclass
class TokenizeSection:
    """How text is cut.

    Attributes:
        workers: processes; null: one a core. The output does not depend on it.
        special_strings: `escape`: a text with `<eod>` or the like in it cannot end its document, nor begin an answer.
        shuffle_seed: documents lie in the dataset in an order drawn from it; null: in the order of the text.
        shard_mib: stored text of a shard, in MiB: a `.bin`/`.idx` pair, what a lost worker costs, and what the workers
            of a stack do apart.
    """

    workers: int | None = None
    special_strings: SpecialStrings = SpecialStrings.honour
    shuffle_seed: int | None = None
    shard_mib: int = 1024


@dataclass
class WeightedDataset:
    """A dataset artifact and its share of the samples (weights are normalised)."""

    name: str = MISSING
    weight: float = 1.0


@dataclass
class TrainingInputs:
    """What is trained on.

    Attributes:
        tokenizer: artifact.
        datasets: a blend of datasets cut by it.
        model: whose weights a run begins with, optimizer and schedule new: an artifact, or a folder in native, Hugging
            Face or Megatron layout (a path with a `/`). Pretraining needs none: its first weights are drawn.
    """

    tokenizer: str = MISSING
    datasets: list[WeightedDataset] = MISSING
    model: str | None = None


@dataclass
class FinetuneInputs(TrainingInputs):
    """What fine-tuning starts from and learns: as pretraining, the model is a must."""

    model: str = MISSING  # pyright: ignore[reportIncompatibleVariableOverride] - OmegaConf reads the narrower type


@dataclass
class DataSection:
    """How samples are cut from datasets (YUAN_FACTS B3).

    Attributes:
        sequence_length: tokens of a sample.
        split: shares of documents for training, validation, test, in file order; normalised.
        fim_rate: share of a sample's document pieces that are rearranged to fill in their middle (YUAN_FACTS B4).
        fim_spm_rate: share of those that are written suffix first.
        reset_position_ids: positions begin at 0 again after each `<eod>`.
    """

    sequence_length: int = 512
    split: list[float] = field(default_factory=lambda: [0.969, 0.03, 0.001])
    fim_rate: float = 0.0
    fim_spm_rate: float = 0.5
    reset_position_ids: bool = False


@dataclass
class RecomputeSection:
    """What is computed again in the backward pass, for memory. every_layers: in the first layer of every so many."""

    mode: Recompute = Recompute.none
    every_layers: int = 1


@dataclass
class GuardSection:
    """What is done about steps that went wrong.

    Attributes:
        nonfinite: where loss or gradients are not finite; `ignore` is no choice.
        spike: where the loss is above spike_factor times its mean over the last spike_window steps.
        spike_factor: see there.
        spike_window: steps.
        most: so many skipped steps in a row, or rollbacks in all, end the run.
    """

    nonfinite: BadStep = BadStep.stop
    spike: BadStep = BadStep.ignore
    spike_factor: float = 2.0
    spike_window: int = 50
    most: int = 5


@dataclass
class TrainSection:
    """The run.

    Attributes:
        steps: optimizer steps; at most 2^31 - 1 samples are read in all.
        global_batch_size: samples a step, over all data-parallel ranks and micro-batches.
        micro_batch_size: samples that go through a pipeline stage at once.
        precision: number format.
        seed: of initial weights and of the order of samples; 0 to 2^32 - 1.
        eod_mask_loss: no loss where the input is `<eod>`.
        recompute: activations that are not kept.
        loss_block_tokens: logits of so many tokens exist at once (the paper's block-wise cross entropy, 3.4); null: a
            size that suits the vocabulary; 0: those of the whole micro-batch.
        attention: who computes it.
        hidden_dropout: share of what attention and feed-forward add that is left out while training; 0 to below 1.
        attention_dropout: share of attention weights that are left out while training; 0 to below 1.
        compile: blocks through `torch.compile`.
        guard: what is done about steps that went wrong.
        step_timeout_seconds: a step that takes longer has hung: the stacks of all ranks are written, the run ends
            and is taken up from its last state; null: never.
    """

    steps: int = MISSING
    global_batch_size: int = MISSING
    micro_batch_size: int = 1
    precision: Precision = Precision.auto
    seed: int = 1234
    eod_mask_loss: bool = False
    recompute: RecomputeSection = field(default_factory=RecomputeSection)
    loss_block_tokens: int | None = None
    attention: AttentionBackend = AttentionBackend.auto
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    compile: bool = False
    guard: GuardSection = field(default_factory=GuardSection)
    step_timeout_seconds: int | None = 1800


@dataclass
class LoraSection:
    """Low-rank additions (arXiv 2106.09685): W + alpha / rank * B A, merged into W when the model is written.

    Attributes:
        rank: of A and B.
        alpha: see there.
        dropout: share of an addition's inputs that are left out while training.
        targets: last names of the matrices that get one: qk_proj, v_proj, o_proj, up_proj, gate_proj, down_proj.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["qk_proj", "v_proj", "o_proj"])


@dataclass
class FinetuneSection:
    """Learning of answers: loss only behind `<sep>` (YUAN_FACTS B5).

    Attributes:
        method: what is changed.
        lora: of method lora.
        packing: how samples are filled.
        strict_masks: instructions never count in the loss, also those of later turns and of documents that a sample
            cuts; false: masked as the original does it, holes included.
    """

    method: FinetuneMethod = FinetuneMethod.full
    lora: LoraSection = field(default_factory=LoraSection)
    packing: Packing = Packing.documents
    strict_masks: bool = True


@dataclass
class WandbSection:
    """Weights & Biases. project, name: as shown there; mode: `online` or `offline` (files only)."""

    project: str = MISSING
    name: str | None = None
    mode: str = "online"


@dataclass
class TrackingSection:
    """Where metrics go beside the job's own history. tensorboard: event files with the run. wandb: null: not there."""

    tensorboard: bool = True
    wandb: WandbSection | None = None


@dataclass
class PlanSection:
    """How a plan is made. cost_model: how it counts. tokens: of the whole training, for its days; null: the steps'."""

    cost_model: CostModel = CostModel.exact
    tokens: int | None = None


@dataclass
class OptimizerSection:
    """The optimizer and its schedule: linear warm-up, then decay to min_lr at the last step.

    Attributes:
        name: `adamw`, or `muon` (matrices of the blocks by Muon, all else by AdamW).
        lr: peak learning rate.
        min_lr: learning rate at the last step.
        warmup_steps: steps over which the learning rate rises from 0.
        decay: shape of its fall.
        restart_steps: the schedule begins anew, warm-up included, every so many steps; 0: never.
        betas: Adam's two averaging factors.
        eps: added to Adam's denominator.
        weight_decay: decoupled; not applied to norms and biases.
        clip_grad: largest global gradient norm; 0: no clipping.
    """

    name: str = "adamw"
    lr: float = MISSING
    min_lr: float = 0.0
    warmup_steps: int = 0
    decay: Decay = Decay.cosine
    restart_steps: int = 0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1.0e-8
    weight_decay: float = 0.1
    clip_grad: float = 1.0


@dataclass
class CheckpointSection:
    """Training states.

    Attributes:
        every_steps: how often one is written (0: only when the run stops).
        keep: newest ones kept.
        asynchronous: training goes on while a state is written.
        best: also keep the weights with the lowest validation loss, and publish those.
    """

    every_steps: int = 0
    keep: int = 2
    asynchronous: bool = True
    best: bool = False


@dataclass
class EvaluationSection:
    """Validation loss during training.

    Attributes:
        every_steps: how often (0: only before the first and after the last step).
        samples: validation samples each time, rounded up to whole global batches; 0: no validation.
    """

    every_steps: int = 0
    samples: int = 0


@dataclass
class SamplingSection:
    """How next tokens are drawn.

    Attributes:
        max_tokens: new tokens at most.
        temperature: 0 takes the likeliest token; higher is more varied.
        top_k: only the k likeliest are drawn from; 0: all.
        top_p: only the likeliest that together reach this probability.
        seed: makes the drawing repeatable.
        stop_at_eod: ends at `<eod>`.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 1234
    stop_at_eod: bool = True


MOST_GUESSES = 32
"""Of a sequence in a step: each is computed, and those behind the first wrong one in vain."""


@dataclass
class ServingSection:
    """How a model is served.

    Attributes:
        name: that clients ask for it by; null: the artifact's.
        dtype: fp32, bf16, fp16 (CUDA) or int8 (the compiled step); null: fp32 on the processor, as stored on CUDA.
        max_batch: requests that run at once.
        kv_tokens: tokens that the KV cache holds over all requests; null: max_batch contexts.
        max_waiting: requests that may wait; more are refused with a retry hint.
        tensor: processes that share the model's matrices; it divides heads and feed-forward width. On CUDA each takes a
            device.
        prompt_lookup: tokens a step that are guessed from the text before (speculative decoding): the same outputs,
            sooner where a text repeats itself; 0: none.
    """

    name: str | None = None
    dtype: str | None = None
    max_batch: int = 16
    kv_tokens: int | None = None
    max_waiting: int = 256
    tensor: int = 1
    prompt_lookup: int = 0


@dataclass
class ModelInput:
    """A model artifact (`NAME[@VERSION]`)."""

    model: str = MISSING


@dataclass
class DeployInputs(ModelInput):
    """A model, and LoRA adapters of it.

    Attributes:
        model: the model artifact.
        adapters: by the names that requests ask for them by, model artifacts that a LoRA fine-tuning of it made.
    """

    adapters: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class GenerateInputs(ModelInput):
    """A model and prompts."""

    prompts: list[str] = MISSING


@dataclass
class EvaluateInputs(ModelInput):
    """A model, and what it is asked.

    Attributes:
        model: the model artifact.
        dataset: the dataset whose validation part `perplexity` scores.
        data: folder or URL (`s3://…`) of the benchmarks' files, as `yuan evaluate --list` names them.
        report: of another model on the same tasks, to compare with question by question.
        requests: that the tasks `requests` and `requests_learned` ask, as kind gather made them.
    """

    dataset: str | None = None
    data: str | None = None
    report: str | None = None
    requests: str | None = None


@dataclass
class SandboxSection:
    """What a generated program may use, and where it runs.

    Attributes:
        wall_seconds: from start to end.
        cpu_seconds: of the processor, each of its processes.
        memory_mib: all its processes together.
        processes: at one time.
        file_mib: of one file; its temporary folder holds twice that.
        socket: of a sandbox in a container of its own; null: `YUAN_SANDBOX`, where it is set, else on this machine.
        unsafe: run programs with limits alone where they cannot be confined.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_mib: int = 1024
    processes: int = 32
    file_mib: int = 16
    socket: str | None = None
    unsafe: bool = False


@dataclass
class EvaluateSection:
    """How the tasks of a suite are asked and scored.

    Attributes:
        profile: `yuan`: prompts and rules of the original; `strict`: without their holes.
        answering: `generate`, or `likelihood` of each choice (tasks that have choices; others are generated).
        limit: items of each task, the first ones; null: all.
        few_shot: worked examples before each question.
        examples: by task the file that they are taken from: below `inputs.data`, or a whole path or URL, with rows as
            the task's own file has them (GSM8K: also its published `train.jsonl`, with the steps). Tasks that
            are not named take other questions of their own.
        samples: answers to each question; more than 1 are drawn (temperature) and voted on.
        unit_tests: sets of unit tests that the model writes for each HumanEval problem, by which candidates are chosen.
        temperature: null: 0 for one sample, 0.5 for more (0.8 for HumanEval).
        top_p: null: 1 for one sample, 0.95 for more.
        top_k: 0: all tokens.
        max_tokens: of an answer; null: the task's.
        seed: of samples, option orders, few-shot examples and bootstrap.
        in_flight: requests at one time; null: four times as many as the model's batch holds, at least 64.
        bootstrap: resamples for intervals; 0: none.
        contamination: look for 13-grams of the suite in the model's training datasets.
        cache: take answers that the same model gave to the same prompt and sampling from the cache.
        other_data: also take benchmark files that are not the known versions.
        keep_served: whether a model that the stack had to load for this stays deployed afterwards.
        sandbox: for generated programs.
    """

    profile: Profile = Profile.yuan
    answering: Answering = Answering.generate
    limit: int | None = None
    few_shot: int = 0
    examples: dict[str, str] = field(default_factory=dict[str, str])
    samples: int = 1
    unit_tests: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int = 0
    max_tokens: int | None = None
    seed: int = 1234
    in_flight: int | None = None
    bootstrap: int = 1000
    contamination: bool = True
    cache: bool = True
    other_data: bool = False
    keep_served: bool = True
    sandbox: SandboxSection = field(default_factory=SandboxSection)


@dataclass
class ConvertInputs:
    """Exactly one of model and path.

    Attributes:
        model: a model artifact.
        path: a folder with a checkpoint: native, Hugging Face, the original's (Megatron), or a training state of ours.
        adapter: low-rank additions to merge in: a model artifact that LoRA fine-tuning made, or, with a `/`, a folder.
    """

    model: str | None = None
    path: str | None = None
    adapter: str | None = None


@dataclass
class TargetSection:
    """What a conversion writes.

    Attributes:
        layout: of the files.
        dtype: fp32, bf16, fp16, or int8 (layers' matrices alone, native layout); null keeps each tensor's own.
        tensor: tensor ranks (megatron).
        stages: layers per pipeline stage as a list, or the number of even stages (megatron).
        iteration: `release`, or a number (megatron); null: the source's own, else release.
        vocab_size: rows of the embedding that are real: those beyond are cut off, missing ones are zero; null: as the
            source has it.
        vocab_multiple: rows of the embedding are padded with zeros to a multiple of it (megatron).
        format: of the files (huggingface).
        shard_gigabytes: a new file is begun beyond (huggingface).
    """

    layout: Layout = Layout.native
    dtype: str | None = None
    tensor: int = 1
    stages: Any = 1
    iteration: str | None = None
    vocab_size: int | None = None
    vocab_multiple: int = 128
    format: WeightFormat = WeightFormat.safetensors
    shard_gigabytes: float = 5.0


@dataclass
class TokenizerOutputs:
    """Name of the tokenizer artifact."""

    tokenizer: str = MISSING


@dataclass
class DatasetOutputs:
    """Name of the dataset artifact."""

    dataset: str = MISSING


@dataclass
class ModelOutputs:
    """Name of the model artifact."""

    model: str = MISSING


@dataclass
class ReportOutputs:
    """Name of the report artifact."""

    report: str = MISSING


@dataclass
class ConvertOutputs:
    """Exactly one of: name of the model artifact; a new folder."""

    model: str | None = None
    path: str | None = None
