"""From a job to what its ranks are told: every choice made, everything checked that can be known before they start."""

from dataclasses import replace
from pathlib import Path

from yuan_corpus import (
    DatasetStatistics,
    Tokenizer,
    TokenizerError,
    count_unanswered,
    open_dataset,
    split_bounds,
)
from yuan_corpus.infilling import InfillingTokens
from yuan_corpus.special_tokens import PAD, SEP
from yuan_events import InputError, Message
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import FinetuneJob, ModelSection, Packing, PretrainJob, TrainingJob
from yuan_model import YuanConfig
from yuan_parallel import ParallelPlan, plan_parallel
from yuan_trainer.combinations import check_combination
from yuan_trainer.datasets import DatasetFacts, read_facts
from yuan_trainer.hardware import resolve_attention, resolve_device, resolve_precision
from yuan_trainer.samples import TRAINING, VALIDATION, documents_of
from yuan_trainer.specification import DatasetPart, Specification
from yuan_trainer.starting import Start, check_same_network, find_start, native_start


def network_of(model: ModelSection, eod_token_id: int) -> YuanConfig:
    """Returns the network that a manifest's model section describes.

    Raises:
        InputError: if a value is impossible; names its key.
    """
    try:
        fields = {**vars(model), "rope_precision": model.rope_precision.value}
        return YuanConfig(**fields, eod_token_id=eod_token_id)
    except ValueError as error:
        raise InputError(f"model.{error}") from error


def prepare(context: WorkContext[TrainingJob], resume_from: Path | None) -> tuple[Specification, ParallelPlan]:
    """Returns a run's specification and how its ranks share the work.

    Args:
        context: of the job.
        resume_from: the training state to continue from, if any.

    Raises:
        InputError: if tokenizer, datasets, model and topology do not fit each other.
        Interrupted: if it was asked to stop while it wrote the model to start from.
    """
    job = context.job
    finetune = job.finetune if isinstance(job, FinetuneJob) else None
    tokenizer, start, config = check_inputs(context)
    device = resolve_device(context.topology)
    job.train.precision = resolve_precision(job.train.precision, device)
    plan = plan_parallel(context.topology, config, job, job.train.precision)
    check_combination(job.train, context.topology.parallel.zero_stage)
    job.train.attention = resolve_attention(job.train.attention, device, job.train.precision)
    rate = context.topology.nodes.peak_tflops or context.topology.nodes.tflops
    # Whole global batches: the samples measured must not depend on the topology.
    batch = job.train.global_batch_size
    specification = Specification(
        model=config,
        datasets=tuple(
            DatasetPart(handle.path, dataset.weight)
            for handle, dataset in zip(context.datasets, job.inputs.datasets, strict=True)
        ),
        data=job.data,
        train=job.train,
        optimizer=job.optimizer,
        stages=plan.stages.layers,
        replicas=plan.grid.data,
        tensor=plan.grid.tensor,
        sequence=context.topology.parallel.sequence,
        zero_stage=context.topology.parallel.zero_stage,
        device=device,
        checkpoint_steps=job.checkpoint.every_steps,
        checkpoint_keep=job.checkpoint.keep,
        validation_steps=job.evaluation.every_steps,
        validation_samples=-(-job.evaluation.samples // batch) * batch,
        eod_token_id=tokenizer.eod_id,
        state_root=context.run / "checkpoints",
        resume_from=resume_from,
        output=context.output,
        start_from=None if start is None else native_start(start, context),
        finetune=finetune,
        tokenizer=context.inputs["tokenizer"].path,
        sep_token_id=None if finetune is None else tokenizer.sep_id,
        pad_token_id=None if finetune is None else tokenizer.pad_id,
        checkpoint=job.checkpoint,
        device_flops=None if rate is None else rate * 1e12,
    )
    return specification, plan


def check_inputs(context: WorkContext[TrainingJob]) -> tuple[Tokenizer, Start | None, YuanConfig]:
    """Returns the tokenizer, the model to start from if there is one, and the network, once they fit all else.

    Raises:
        InputError: if tokenizer, datasets, models and samples do not fit each other.
    """
    tokenizer = Tokenizer.load(context.inputs["tokenizer"].path)
    start = find_start(context)
    config = network(context, tokenizer, start)
    check_data(context, tokenizer, config)
    return tokenizer, start, config


def network(context: WorkContext[TrainingJob], tokenizer: Tokenizer, start: Start | None) -> YuanConfig:
    """Returns the network that a job trains: the one that its model section describes, or that it starts from.

    Raises:
        InputError: if the two differ, or it does not fit the tokenizer, the samples or the topology.
    """
    job, handle = context.job, context.inputs["tokenizer"]
    if isinstance(job, PretrainJob):
        config = network_of(job.model, tokenizer.eod_id)
        if start is not None:
            check_same_network(start, config)
    elif start is not None:
        config = replace(start.config, eod_token_id=tokenizer.eod_id)
        if isinstance(job, FinetuneJob) and job.model is not None:
            check_same_network(start, network_of(job.model, tokenizer.eod_id))
            config = replace(config, rope_precision=job.model.rope_precision.value)
        longest = config.max_position_embeddings
        if job.data.sequence_length > longest:
            raise InputError(
                f"data.sequence_length: {job.data.sequence_length} is above the max_position_embeddings {longest} of "
                f"{start.name}; lower it to at most that"
            )
    else:
        raise InputError("inputs.model: fine-tuning starts from a model; name an artifact or a folder")
    if tokenizer.vocab_size > config.vocab_size:
        smaller = f"{config.vocab_size} is smaller than the {tokenizer.vocab_size} pieces of {handle.reference}"
        if isinstance(job, PretrainJob):
            raise InputError(f"model.vocab_size: {smaller}; raise it to at least that")
        raise InputError(f"inputs.model: its vocab_size {smaller}; name the tokenizer that it was trained with")
    before = None if start is None else start.config.eod_token_id
    if start is not None and before not in (None, tokenizer.eod_id):
        told = f"{start.name} ended documents with token {before}, {handle.reference} does with {tokenizer.eod_id}"
        context.sink.emit(Message(f"{told}: is this the tokenizer that it was trained with?", "warning"))
    return config


def check_data(context: WorkContext[TrainingJob], tokenizer: Tokenizer, config: YuanConfig) -> None:
    """Checks that the tokenizer made the datasets, has the tokens that the job needs, and that there is enough text.

    Raises:
        InputError: if not.
    """
    job, handle = context.job, context.inputs["tokenizer"]
    try:
        if job.data.fim_rate > 0:
            InfillingTokens.of(tokenizer)
        if job.data.fim_rate > 0 or isinstance(job, FinetuneJob):
            tokenizer.special_id(PAD)
        if isinstance(job, FinetuneJob):
            tokenizer.special_id(SEP)
    except TokenizerError as error:
        raise InputError(f"inputs.tokenizer: {handle.reference}: {error}") from error
    for facts in read_facts(context):
        check_dataset(facts, handle, config.vocab_size)
    for dataset in context.datasets:
        check_shards(dataset)
        check_split(dataset, job.data.split, validates=job.evaluation.samples > 0)
        if isinstance(job, FinetuneJob):
            check_answers(context, dataset, tokenizer)


def check_answers(context: WorkContext[TrainingJob], dataset: ArtifactHandle, tokenizer: Tokenizer) -> None:
    """Tells what of a dataset there is to learn, and what is lost.

    Raises:
        InputError: if no document has an answer.
    """
    job = context.job
    opened = open_dataset(dataset.path)
    documents = documents_of(job.data.split, opened, TRAINING)
    unanswered = count_unanswered(opened, documents, tokenizer.sep_id)
    if unanswered == len(documents):
        raise InputError(
            f"inputs.datasets: no document of {dataset.reference} has a <sep>, behind which answers begin; write "
            "question[SEP]answer in its text, one a line, and tokenize it again"
        )
    room = job.data.sequence_length + 1
    truncated = int((opened.lengths[documents.start : documents.stop] > room).sum())
    said: list[str] = []
    if unanswered:
        said.append(f"{unanswered} have no <sep> and so no answer")
    if truncated and isinstance(job, FinetuneJob) and job.finetune.packing == Packing.documents:
        said.append(f"{truncated} are longer than a sample and lose their end (data.sequence_length)")
    if said:
        told = f"{dataset.reference}: of {len(documents)} documents {', '.join(said)}"
        context.sink.emit(Message(told, "warning"))


def check_dataset(facts: DatasetFacts, tokenizer: ArtifactHandle, vocab_size: int) -> None:
    """Checks that a dataset can be trained on.

    Args:
        facts: what is known of it.
        tokenizer: the run's.
        vocab_size: of the model.

    Raises:
        InputError: if it was cut by another tokenizer, or has ids that the model has no row for.
    """
    if facts.tokenizer_digest != tokenizer.digest:
        raise InputError(
            f"inputs.datasets: {facts.reference} was cut by another tokenizer than {tokenizer.reference}; "
            "tokenize its text with this one, or train with the one that made it"
        )
    if facts.vocab_size > vocab_size:
        raise InputError(
            f"inputs.datasets: {facts.reference} has {facts.vocab_size} different ids and the model "
            f"{vocab_size} rows; raise model.vocab_size to at least that"
        )


def check_shards(dataset: ArtifactHandle) -> None:
    """Checks that every shard that was written is still there: without one, others' documents would be trained on.

    Raises:
        InputError: if one is missing.
    """
    for shard in DatasetStatistics.read(dataset.path).shards:
        for name in (f"{shard.name}.bin", f"{shard.name}.idx"):
            if not (dataset.path / name).is_file():
                raise InputError(
                    f"inputs.datasets: {dataset.reference} has lost a shard: {dataset.path / name} is missing; put it "
                    "back, or tokenize the text again"
                )


def check_split(dataset: ArtifactHandle, split: list[float], *, validates: bool) -> None:
    """Checks that a dataset has text in every part of the split that the run reads.

    Args:
        dataset: the artifact.
        split: `data.split`.
        validates: whether the run reads the validation part.

    Raises:
        InputError: if a part has none: shares of few documents are rounded to whole ones, and so may come to nothing.
    """
    lengths = open_dataset(dataset.path).lengths
    bounds = split_bounds(split, len(lengths))
    for part, purpose in ((TRAINING, "train"), (VALIDATION, "validate")):
        if part == VALIDATION and not validates:
            continue
        if lengths[bounds[part] : bounds[part + 1]].sum(dtype="int64") == 0:
            mend = "raise that share, as in data.split=[0.8,0.2,0], or add documents"
            without = "; evaluation.samples=0 does without validation" if part == VALIDATION else ""
            raise InputError(
                f"data.split[{part}]: a share of {split[part]:g} of the {len(lengths)} documents of "
                f"{dataset.reference} is no text to {purpose} on; {mend}{without}"
            )
