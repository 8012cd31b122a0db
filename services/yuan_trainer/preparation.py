"""From a job to what its ranks are told: every choice made, everything checked that can be known before they start."""

from pathlib import Path

from yuan_corpus import Tokenizer, open_dataset, split_bounds
from yuan_events import InputError
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import ModelSection, PretrainJob
from yuan_model import YuanConfig
from yuan_parallel import ParallelPlan, plan_parallel
from yuan_trainer.datasets import DatasetFacts, read_facts
from yuan_trainer.hardware import resolve_device, resolve_precision
from yuan_trainer.samples import TRAINING, VALIDATION
from yuan_trainer.specification import DatasetPart, Specification


def network_of(model: ModelSection, eod_token_id: int) -> YuanConfig:
    """Returns the network that a manifest's model section describes.

    Raises:
        InputError: if a value is impossible; names its key.
    """
    try:
        return YuanConfig(**vars(model), eod_token_id=eod_token_id)
    except ValueError as error:
        raise InputError(f"model.{error}") from error


def prepare(context: WorkContext[PretrainJob], resume_from: Path | None) -> tuple[Specification, ParallelPlan]:
    """Returns a run's specification and how its ranks share the work.

    Args:
        context: of the job.
        resume_from: the training state to continue from, if any.

    Raises:
        InputError: if tokenizer, datasets, model and topology do not fit each other.
    """
    job = context.job
    tokenizer = check_inputs(context)
    config = network_of(job.model, tokenizer.eod_id)
    device = resolve_device(context.topology)
    plan = plan_parallel(
        context.topology,
        config,
        sequence_length=job.data.sequence_length,
        global_batch_size=job.train.global_batch_size,
        micro_batch_size=job.train.micro_batch_size,
    )
    job.train.precision = resolve_precision(job.train.precision, device)
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
    )
    return specification, plan


def check_inputs(context: WorkContext[PretrainJob]) -> Tokenizer:
    """Returns the tokenizer, once it is known to have made the datasets and to fit the model.

    Raises:
        InputError: if it does not.
    """
    job = context.job
    handle = context.inputs["tokenizer"]
    tokenizer = Tokenizer.load(handle.path)
    if tokenizer.vocab_size > job.model.vocab_size:
        raise InputError(
            f"model.vocab_size: {job.model.vocab_size} is smaller than the {tokenizer.vocab_size} pieces of "
            f"{handle.reference}; raise it to at least that"
        )
    for facts in read_facts(context):
        check_dataset(facts, handle, job.model.vocab_size)
    for dataset in context.datasets:
        check_split(dataset, job.data.split, validates=job.evaluation.samples > 0)
    return tokenizer


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
