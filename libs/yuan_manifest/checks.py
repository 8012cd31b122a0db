"""What values may be, beyond their type: one function a section, each naming the key to change.

What must hold between a job and its topology is in `topology.py`.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from yuan_manifest import rules, schema
from yuan_manifest.cleaning import check_stage
from yuan_manifest.errors import ManifestError, Origins
from yuan_manifest.rules import Problem
from yuan_manifest.scheduling import check_scheduling
from yuan_manifest.sections import MOST_GUESSES
from yuan_manifest.suites import OF_REQUESTS, PERPLEXITY, SUITE, suite_names
from yuan_manifest.values import KeyPath, children, is_list, parse_path, shown

OPTIMIZERS = ("adamw", "muon")
WANDB_MODES = ("online", "offline")
DTYPES = ("fp32", "bf16", "fp16")
LORA_TARGETS = ("qk_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")


def check(section: object, origins: Origins, path: KeyPath = ()) -> None:
    """Checks a section and all below it.

    Args:
        section: a dataclass of the schema, every value of the right type.
        origins: where the values of the whole manifest stand.
        path: of the section in it.

    Raises:
        ManifestError: at the first problem.
    """
    # Sections before what must hold between them: a wrong value is named itself, not what it does not fit to.
    for below, value in _children(section):
        if dataclasses.is_dataclass(value):
            check(value, origins, (*path, *below))
    for cls in type(section).__mro__:
        for key, problem in _CHECKS.get(cls, _nothing)(section):
            where = (*path, *(parse_path(key) if isinstance(key, str) else key))
            raise ManifestError.at(origins.find(where), where, problem)


def _children(section: Any) -> Iterator[tuple[KeyPath, object]]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        yield (field.name,), value
        for key, item in children(value):
            yield (field.name, key), item


def _nothing(_: Any) -> Iterator[Problem]:
    yield from ()


# --- sections of jobs --------------------------------------------------------------------------------------------


def _job(job: schema.Job) -> Iterator[Problem]:
    yield from rules.names(job, "name")


def _model(model: schema.ModelSection) -> Iterator[Problem]:
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    yield from rules.at_least(model, 1, *sizes, "max_position_embeddings")
    hidden, heads = model.hidden_size, model.num_attention_heads
    if hidden % 2:
        yield "hidden_size", f"expected an even number, found {hidden}"
    if hidden % heads:
        yield "num_attention_heads", f"{heads} does not divide model.hidden_size {hidden}"
    elif hidden // heads % 2:
        yield "num_attention_heads", f"hidden_size {hidden} / {heads} heads is an odd head dimension, {hidden // heads}"
    yield from rules.above_zero(model, "rms_norm_eps", "rope_theta", "initializer_range")


def _tokenizer(section: schema.TokenizerSection) -> Iterator[Problem]:
    smallest = 300  # 256 byte pieces, the special tokens, and a few pieces of text
    if section.vocab_size < smallest:
        why = "256 byte pieces and the special tokens"
        yield "vocab_size", f"expected at least {smallest} ({why}), found {section.vocab_size}"
    yield from rules.above_zero(section, "sample_megabytes")
    if section.shard_vocab_size is not None and section.shard_vocab_size < smallest:
        yield "shard_vocab_size", f"expected at least {smallest}, found {section.shard_vocab_size}"
    yield from rules.at_least(section, 1, "shards", "top")
    yield from rules.at_least(section, 0, "added_characters")
    counts = ("vocab_size", "sample_megabytes", "shard_vocab_size", "shards", "top", "added_characters")
    yield from rules.at_most(section, rules.LARGEST_COUNT, *counts)
    yield from rules.seed(section)
    if not section.shards > 1 and section.shard_vocab_size is not None and not section.merges:
        yield "shard_vocab_size", "means nothing for one model that is taken as it is; see tokenizer.shards"


def _tokenizer_filters(filters: schema.TokenizerFilters) -> Iterator[Problem]:
    yield from rules.at_least(filters, 1, "max_han")


def _tokenizer_job(job: schema.TokenizerJob) -> Iterator[Problem]:
    if job.inputs.sentencepiece is None:
        return
    if job.tokenizer != schema.TokenizerSection():
        yield "tokenizer", "means nothing beside inputs.sentencepiece, which is taken as it is; remove one of them"
    for key in ("tokenizers", "compare"):
        if getattr(job.inputs, key) and (key == "tokenizers" or not job.inputs.text):
            why = "adds pieces to a model that is trained" if key == "tokenizers" else "is measured on inputs.text"
            yield ("inputs", key), f"{why}; remove it, or inputs.sentencepiece"


def _tokenizer_inputs(inputs: schema.TokenizerInputs) -> Iterator[Problem]:
    if inputs.sentencepiece is None:
        yield from rules.filled(inputs, "text")
    elif "/" not in inputs.sentencepiece:
        yield "sentencepiece", f"expected a path, which has a /, found {shown(inputs.sentencepiece)}"
    for key in ("tokenizers", "compare"):
        names: list[str] = getattr(inputs, key)
        for index, name in enumerate(names):
            if "/" not in name:
                for _, problem in rules.reference(f"{key}[{index}]", name):
                    yield f"{key}[{index}]", problem + "; or a path, which has a /"
            if name in names[:index]:
                yield f"{key}[{index}]", f"{shown(name)} is there twice"


def _text_inputs(inputs: schema.TextInputs) -> Iterator[Problem]:
    yield from rules.some_text(inputs, "text_field")
    if inputs.encoding != "auto" and not _is_encoding(inputs.encoding):
        yield "encoding", f"expected auto, utf-8 or another that Python knows, found {shown(inputs.encoding)}"


def _is_encoding(name: str) -> bool:
    try:
        "".encode(name)  # codecs.lookup also finds codecs of bytes to bytes (`gzip`), which this does not take
    except LookupError:
        return False
    return True


def _tokenizer_reference(inputs: schema.TokenizeInputs | schema.TrainingInputs) -> Iterator[Problem]:
    mend = "; kind tokenizer makes an artifact of such a file (inputs.sentencepiece)" if "/" in inputs.tokenizer else ""
    for key, problem in rules.references(inputs, "tokenizer"):
        yield key, problem + mend


def _tokenize_inputs(inputs: schema.TokenizeInputs) -> Iterator[Problem]:
    yield from _tokenizer_reference(inputs)
    yield from rules.references(inputs, "requests")
    if inputs.requests is None:
        yield from rules.filled(inputs, "text")
    elif inputs.text:
        yield "text", "expected nothing beside inputs.requests, whose examples are the text; remove one of them"


def _tokenize(section: schema.TokenizeSection) -> Iterator[Problem]:
    yield from rules.at_least(section, 1, "workers", "shard_mib")
    yield from rules.at_least(section, 0, "shuffle_seed")


def _tokenize_job(job: schema.TokenizeJob) -> Iterator[Problem]:
    for index, item in enumerate(job.cleaning):
        for key, problem in check_stage(item):
            yield ("cleaning", index, *(parse_path(key) if isinstance(key, str) else key)), problem


def _dataset(dataset: schema.WeightedDataset) -> Iterator[Problem]:
    yield from rules.references(dataset, "name")
    yield from rules.above_zero(dataset, "weight")


def _training_inputs(inputs: schema.TrainingInputs) -> Iterator[Problem]:
    yield from _tokenizer_reference(inputs)
    yield from rules.filled(inputs, "datasets")
    if inputs.model is not None and "/" not in inputs.model:  # a path otherwise
        yield from rules.references(inputs, "model")


def _data(data: schema.DataSection) -> Iterator[Problem]:
    yield from rules.at_least(data, 1, "sequence_length")
    if len(data.split) != 3:
        yield "split", f"expected 3 shares (training, validation, test), found {len(data.split)}"
    for index, share in enumerate(data.split):
        if share < 0:
            yield f"split[{index}]", f"expected at least 0, found {share}"
    if data.split[0] <= 0:
        yield (
            "split[0]",
            f"expected more than 0, found {data.split[0]}; without training documents there is no training",
        )
    yield from rules.share(data, "fim_rate", "fim_spm_rate")


def _train(train: schema.TrainSection) -> Iterator[Problem]:
    yield from rules.at_least(train, 1, "steps", "global_batch_size", "micro_batch_size")
    if train.global_batch_size % train.micro_batch_size:
        problem = f"{train.global_batch_size} is no multiple of train.micro_batch_size {train.micro_batch_size}"
        yield "global_batch_size", problem
    elif train.steps * train.global_batch_size > rules.LARGEST_COUNT:
        samples = train.steps * train.global_batch_size
        problem = f"{train.steps} x train.global_batch_size {train.global_batch_size} are {samples} samples"
        yield "steps", f"{problem}; expected at most {rules.LARGEST_COUNT}"
    yield from rules.seed(train, rules.LARGEST_SHUFFLE_SEED)
    for name in ("hidden_dropout", "attention_dropout"):
        if not 0 <= getattr(train, name) < 1:
            yield name, f"expected at least 0 and less than 1, found {getattr(train, name)}"
    yield from rules.at_least(train, 0, "loss_block_tokens")
    yield from rules.at_least(train, 1, "step_timeout_seconds")


def _recompute(recompute: schema.RecomputeSection) -> Iterator[Problem]:
    yield from rules.at_least(recompute, 1, "every_layers")


def _guard(guard: schema.GuardSection) -> Iterator[Problem]:
    if guard.nonfinite == schema.BadStep.ignore:
        yield "nonfinite", "ignore would spoil every weight with the first such step; expected skip, rollback or stop"
    if not guard.spike_factor > 1:
        yield "spike_factor", f"expected more than 1, found {guard.spike_factor}; it is a multiple of the mean loss"
    yield from rules.at_least(guard, 1, "spike_window", "most")


def _wandb(wandb: schema.WandbSection) -> Iterator[Problem]:
    yield from rules.some_text(wandb, "project", "name")
    yield from rules.one_of("mode", wandb.mode, WANDB_MODES)


def _optimizer(optimizer: schema.OptimizerSection) -> Iterator[Problem]:
    yield from rules.one_of("name", optimizer.name, OPTIMIZERS)
    yield from rules.above_zero(optimizer, "lr", "eps")
    yield from rules.at_least(optimizer, 0, "min_lr", "warmup_steps", "restart_steps", "weight_decay", "clip_grad")
    if 0 < optimizer.restart_steps <= optimizer.warmup_steps:
        problem = f"{optimizer.restart_steps} ends before optimizer.warmup_steps {optimizer.warmup_steps} are over"
        yield "restart_steps", f"{problem}; expected more, or 0 for a schedule that does not begin anew"
    if optimizer.min_lr > optimizer.lr:
        yield "min_lr", f"{optimizer.min_lr} is above optimizer.lr {optimizer.lr}"
    if len(optimizer.betas) != 2:
        yield "betas", f"expected 2 numbers, found {len(optimizer.betas)}"
    for index, beta in enumerate(optimizer.betas):
        if not 0 <= beta < 1:
            yield f"betas[{index}]", f"expected at least 0 and less than 1, found {beta}"


def _checkpoint(checkpoint: schema.CheckpointSection) -> Iterator[Problem]:
    yield from rules.at_least(checkpoint, 0, "every_steps")
    yield from rules.at_least(checkpoint, 1, "keep")


def _evaluation(evaluation: schema.EvaluationSection) -> Iterator[Problem]:
    yield from rules.at_least(evaluation, 0, "every_steps", "samples")


def _training(job: schema.TrainingJob) -> Iterator[Problem]:
    if job.optimizer.warmup_steps > job.train.steps:
        problem = (
            f"{job.optimizer.warmup_steps} is above train.steps {job.train.steps}; lower the first or raise the second"
        )
        yield "optimizer.warmup_steps", problem
    if job.evaluation.samples and not job.data.split[1]:
        problem = (
            f"no documents for validation, but evaluation.samples is {job.evaluation.samples}; "
            "raise the first or set the second to 0"
        )
        yield "data.split[1]", problem
    if job.checkpoint.best and not job.evaluation.samples:
        problem = "the best weights are those of the lowest validation loss, but evaluation.samples is 0"
        yield "checkpoint.best", f"{problem}; raise it, or set checkpoint.best=false"


def _pretrain(job: schema.PretrainJob) -> Iterator[Problem]:
    longest = job.model.max_position_embeddings
    if job.data.sequence_length > longest:
        problem = f"{job.data.sequence_length} is above model.max_position_embeddings {longest}"
        yield "data.sequence_length", problem


def _finetune(job: schema.FinetuneJob) -> Iterator[Problem]:
    if job.data.fim_rate > 0:
        problem = f"{job.data.fim_rate} would tear questions and answers apart; expected 0 for kind finetune"
        yield "data.fim_rate", problem


def _lora(lora: schema.LoraSection) -> Iterator[Problem]:
    yield from rules.at_least(lora, 1, "rank")
    yield from rules.above_zero(lora, "alpha")
    if not 0 <= lora.dropout < 1:
        yield "dropout", f"expected at least 0 and less than 1, found {lora.dropout}"
    yield from rules.filled(lora, "targets")
    for index, name in enumerate(lora.targets):
        yield from rules.one_of(f"targets[{index}]", name, LORA_TARGETS)
        if name in lora.targets[:index]:
            yield f"targets[{index}]", f"{name} stands there twice"


def _sampling(sampling: schema.SamplingSection) -> Iterator[Problem]:
    yield from rules.at_least(sampling, 1, "max_tokens")
    yield from rules.at_least(sampling, 0, "temperature", "top_k")
    if not 0 < sampling.top_p <= 1:
        yield "top_p", f"expected more than 0 and at most 1, found {sampling.top_p}"
    yield from rules.seed(sampling)


def _serving(serving: schema.ServingSection) -> Iterator[Problem]:
    yield from rules.at_least(serving, 1, "max_batch", "max_waiting", "tensor")
    if serving.kv_tokens is not None and serving.kv_tokens < 1:
        yield "kv_tokens", f"expected at least 1, found {serving.kv_tokens}"
    if serving.dtype is not None:
        yield from rules.one_of("dtype", serving.dtype, (*DTYPES, "int8"))
    if serving.name is not None and not rules.STORED_NAME.fullmatch(serving.name):
        yield "name", f"expected a name ({rules.STORED_NAME_RULE}), found {shown(serving.name)}"
    yield from rules.at_least(serving, 0, "prompt_lookup")
    yield from rules.at_most(serving, MOST_GUESSES, "prompt_lookup")


def _model_input(inputs: schema.ModelInput) -> Iterator[Problem]:
    yield from rules.references(inputs, "model")


def _deploy_inputs(inputs: schema.DeployInputs) -> Iterator[Problem]:
    for name, model in inputs.adapters.items():
        if not rules.STORED_NAME.fullmatch(name):
            yield ("adapters", name), f"cannot be a name; use {rules.STORED_NAME_RULE}"
        yield from rules.reference(("adapters", name), model)


def _generate_inputs(inputs: schema.GenerateInputs) -> Iterator[Problem]:
    yield from rules.filled(inputs, "prompts")


def _evaluate_inputs(inputs: schema.EvaluateInputs) -> Iterator[Problem]:
    yield from rules.references(inputs, "dataset", "report", "requests")
    yield from rules.some_text(inputs, "data")


def _evaluate_section(section: schema.EvaluateSection) -> Iterator[Problem]:
    yield from rules.at_least(section, 1, "limit", "samples", "max_tokens", "in_flight")
    yield from rules.at_least(section, 0, "few_shot", "unit_tests", "temperature", "top_k", "bootstrap")
    if section.top_p is not None and not 0 < section.top_p <= 1:
        yield "top_p", f"expected more than 0 and at most 1, found {section.top_p}"
    if section.samples > 1 and section.temperature == 0:
        yield "temperature", f"0 gives {section.samples} samples that are all the same; raise it, or set samples=1"
    if section.unit_tests and section.samples == 1:
        yield "unit_tests", f"{section.unit_tests} sets choose among candidates, but samples is 1; raise samples"
    if section.examples and not section.few_shot:
        yield "few_shot", "is 0, but examples are given; set how many stand before each question"
    for name, file in section.examples.items():
        if not file.strip():
            yield ("examples", name), "is empty text; expected a file"
    yield from rules.seed(section, rules.LARGEST_SHUFFLE_SEED)


def _sandbox(sandbox: schema.SandboxSection) -> Iterator[Problem]:
    yield from rules.above_zero(sandbox, "wall_seconds")
    yield from rules.at_least(sandbox, 1, "cpu_seconds", "processes", "file_mib")
    yield from rules.at_least(sandbox, 64, "memory_mib")
    yield from rules.some_text(sandbox, "socket")


def _convert_inputs(inputs: schema.ConvertInputs) -> Iterator[Problem]:
    yield from rules.either(inputs)
    yield from rules.references(inputs, "model")
    if inputs.adapter is not None and "/" not in inputs.adapter:
        yield from rules.references(inputs, "adapter")


def _convert_outputs(outputs: schema.ConvertOutputs) -> Iterator[Problem]:
    yield from rules.either(outputs)
    yield from rules.names(outputs, "model")


def _target(target: schema.TargetSection) -> Iterator[Problem]:
    if target.dtype is not None:
        yield from rules.one_of("dtype", target.dtype, (*DTYPES, "int8"))
    yield from rules.at_least(target, 1, "tensor", "vocab_multiple")
    if target.vocab_size is not None:
        yield from rules.at_least(target, 1, "vocab_size")
    yield from rules.above_zero(target, "shard_gigabytes")
    counts = target.stages if is_list(target.stages) else [target.stages]
    if not counts or any(type(count) is not int or count < 0 for count in counts):
        yield (
            "stages",
            f"expected a number of stages, or layers per stage as a list ([1, 3]), found {shown(target.stages)}",
        )
    elif target.stages == 0:
        yield "stages", "expected at least 1, found 0"
    iteration = target.iteration
    if iteration is not None and iteration != "release" and not (iteration.isdecimal() and int(iteration) > 0):
        yield "iteration", f"expected release or a number above 0, found {shown(iteration)}"
    if target.layout != schema.Layout.megatron:
        for name, plain in (("tensor", 1), ("stages", 1), ("iteration", None)):
            if getattr(target, name) != plain:
                yield name, f"only layout megatron is divided; layout {target.layout.value} has whole tensors"
    if target.dtype == "int8" and target.layout != schema.Layout.native:
        yield "dtype", f"int8 is of layout native; layout {target.layout.value} has no form for it"


def _evaluate(job: schema.EvaluateJob) -> Iterator[Problem]:
    yield from rules.filled(job, "suite")
    for index, name in enumerate(job.suite):
        if known := suite_names():
            yield from rules.one_of(f"suite[{index}]", name, known)
        if name in job.suite[:index]:
            yield f"suite[{index}]", f"{name} stands there twice"
    yield from rules.at_least(job, 1, "samples")
    if PERPLEXITY in job.suite and job.inputs.dataset is None:
        yield "inputs.dataset", "missing; perplexity is measured on a dataset's validation part"
    if set(job.suite) & set(OF_REQUESTS) and job.inputs.requests is None:
        yield "inputs.requests", f"missing; the tasks {' and '.join(OF_REQUESTS)} ask its examples (kind gather)"
    if set(job.suite) - {PERPLEXITY, *OF_REQUESTS} and job.inputs.data is None:
        yield "inputs.data", "missing; it is the folder or URL of the benchmarks' files (yuan evaluate --list)"


def _gather(section: schema.GatherSection) -> Iterator[Problem]:
    yield from rules.share(section, "held_out")
    yield from rules.seed(section)


def _judge_inputs(inputs: schema.JudgeInputs) -> Iterator[Problem]:
    yield from rules.references(inputs, "requests", "report", "baseline")
    if inputs.report == inputs.baseline:
        yield "baseline", f"{inputs.baseline} is inputs.report, too; expected that of the old model"


def _gate(gate: schema.GateSection) -> Iterator[Problem]:
    yield from rules.share(gate, "worse_by")
    yield from rules.at_least(gate, 0, "perplexity_rise")
    known = suite_names()
    for name, value in gate.tasks.items():
        if known and name not in known:
            for _, problem in rules.one_of(name, name, [one for one in known if one not in (SUITE, PERPLEXITY)]):
                yield ("tasks", name), problem
        if not -1 <= value <= 1:
            yield ("tasks", name), f"expected -1 to 1, found {value}"


def _release_inputs(inputs: schema.ReleaseInputs) -> Iterator[Problem]:
    yield from rules.references(inputs, "report")


def _release(job: schema.ReleaseJob) -> Iterator[Problem]:
    if job.inputs.model.partition("@")[0] == job.outputs.model:
        yield "outputs.model", f"{job.outputs.model} is inputs.model, too, which is published already; name another one"


def _answer_inputs(inputs: schema.AnswerInputs) -> Iterator[Problem]:
    yield from rules.references(inputs, "requests", "report")


def _answer(job: schema.AnswerJob) -> Iterator[Problem]:
    yield from rules.names(job, "released")


def _pipeline(job: schema.PipelineJob) -> Iterator[Problem]:
    if not job.steps:
        yield "steps", "is empty; expected at least one step"
    reserved = {field.name for field in dataclasses.fields(job)} | {"cluster", "extends"}
    for name, step in job.steps.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name) or name.isdecimal():
            expected = "a name of 1 to 63 of a-z 0-9 _ -, the first a letter or digit, not digits alone"
            yield ("steps", name), f"expected {expected}, found {shown(name)}"
        if name in reserved:
            yield ("steps", name), f"a step cannot be called {name}, which is a key of manifests; rename it"
        if step.manifest == "":
            yield ("steps", name, "manifest"), "is empty text"
        for index, need in enumerate(step.needs):
            if need not in job.steps:
                yield ("steps", name, "needs", index), _unknown_step(need, list(job.steps))
    cycle = _cycle(job)
    if cycle:
        yield ("steps", cycle[0], "needs"), f"needs itself in turn: {' -> '.join(cycle)}"


def _unknown_step(need: str, names: list[str]) -> str:
    near = difflib.get_close_matches(need, names, n=1)
    mend = f"; did you mean {near[0]}?" if near else ""
    return f"{shown(need)} is no step; expected one of {', '.join(names)}{mend}"


def _cycle(job: schema.PipelineJob) -> list[str]:
    """Returns the steps of a circle of needs, its first again at the end; empty if there is none."""
    done: set[str] = set()
    for start in job.steps:
        trail: list[str] = [start]
        pending = [iter(job.steps[start].needs)]
        while pending:
            need = next(pending[-1], None)
            if need is None:
                done.add(trail.pop())
                pending.pop()
            elif need in trail:
                return [*trail[trail.index(need) :], need]
            elif need not in done:
                trail.append(need)
                pending.append(iter(job.steps[need].needs))
    return []


# --- topology and cluster ----------------------------------------------------------------------------------------


def _topology(topology: schema.Topology) -> Iterator[Problem]:
    yield from rules.some_text(topology, "hostfile")
    if not 1 <= topology.port <= 65535:
        yield "port", f"expected 1 to 65535, found {topology.port}"
    if topology.launcher == schema.Launcher.hostfile and topology.hostfile is None:
        yield "hostfile", "missing; launcher hostfile needs a file of lines HOST slots=N"
    if topology.launcher == schema.Launcher.kubernetes and topology.kubernetes is None:
        yield "kubernetes", "missing; launcher kubernetes needs its section, with claim: NAME"


_SLURM_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")
_SLURM_OPTION = re.compile(r"--(?P<name>[a-z][a-z0-9-]*)(=[^\x00-\x1f]+)?")
_SLURM_OURS = {
    "nodes": "topology.nodes.count",
    "ntasks": "topology.nodes",
    "ntasks-per-node": "topology.nodes",
    "gpus-per-node": "topology.nodes.devices",
    "partition": "topology.slurm.partition",
    "account": "topology.slurm.account",
    "time": "topology.slurm.time",
}
"""Options of sbatch that follow from other keys."""


def _slurm(section: schema.SlurmSection) -> Iterator[Problem]:
    for name in ("partition", "account"):
        value = getattr(section, name)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_.,+-]+", value):
            yield name, f"expected a name as Slurm has it, found {shown(value)}"
    if section.time is not None and not _SLURM_TIME.fullmatch(section.time):
        yield "time", f"expected minutes, HH:MM:SS or DAYS-HH:MM:SS, found {shown(section.time)}"
    for index, option in enumerate(section.options):
        match = _SLURM_OPTION.fullmatch(option)
        if match is None:
            yield f"options[{index}]", f"expected --NAME or --NAME=VALUE, found {shown(option)}"
        elif match["name"] in _SLURM_OURS:
            yield f"options[{index}]", f"--{match['name']} follows from {_SLURM_OURS[match['name']]}; set that"
        elif match["name"] in ("output", "job-name", "parsable", "wrap", "array"):
            yield f"options[{index}]", f"--{match['name']} is set by the launcher; leave it out"
    for index, line in enumerate(section.prologue):
        if "\0" in line:
            yield f"prologue[{index}]", f"expected a line of shell, found {shown(line)}"


_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def _kubernetes(section: schema.KubernetesSection) -> Iterator[Problem]:
    if not _DNS_LABEL.fullmatch(section.namespace):
        yield "namespace", f"expected a name of a-z 0-9 -, found {shown(section.namespace)}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", section.image):
        yield "image", f"expected an image as in registry/name:tag, found {shown(section.image)}"
    if not _DNS_NAME.fullmatch(section.claim):
        yield "claim", f"expected the name of a persistent volume claim, found {shown(section.claim)}"
    if section.device_resource is not None and not _RESOURCE.fullmatch(section.device_resource):
        problem = f"expected a resource like nvidia.com/gpu, or null, found {shown(section.device_resource)}"
        yield "device_resource", problem
    if not 1 <= section.user < 1 << 31:
        yield "user", f"expected the number of a user other than root, found {section.user}"


def _nodes(nodes: schema.Nodes) -> Iterator[Problem]:
    yield from rules.at_least(nodes, 1, "count", "devices")
    speeds = ("tflops", "peak_tflops", "link_gbps", "network_gbps")
    yield from rules.above_zero(nodes, "memory_gib", *speeds)
    yield from rules.at_most(nodes, rules.LARGEST_COUNT, "memory_gib", *speeds)
    if nodes.tflops and nodes.peak_tflops and nodes.tflops > nodes.peak_tflops:
        yield "peak_tflops", f"{nodes.peak_tflops} is below topology.nodes.tflops {nodes.tflops}"


def _parallel(parallel: schema.Parallel) -> Iterator[Problem]:
    yield from rules.at_least(parallel, 1, "pipeline", "tensor")
    if parallel.zero_stage not in (0, 1, 2, 3):
        yield "zero_stage", f"expected 0, 1, 2 or 3, found {parallel.zero_stage}"
    if parallel.data != "auto" and not _is_count(parallel.data):
        yield "data", f"expected auto or a whole number from 1, found {shown(parallel.data)}"
    yield from _stages(parallel.stages)


def _stages(stages: object) -> Iterator[Problem]:
    expected = "expected auto, uniform, or the layers of each stage like [1, 3]"
    if not is_list(stages):
        if stages not in ("auto", "uniform"):
            yield "stages", f"{expected}, found {shown(stages)}"
        return
    if not stages:
        yield "stages", f"{expected}, found an empty list"
    for index, layers in enumerate(stages):
        if not _is_count(layers):
            yield f"stages[{index}]", f"expected a whole number from 1, found {shown(layers)}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _plan(plan: schema.PlanSection) -> Iterator[Problem]:
    if plan.tokens is not None and plan.tokens < 1:  # a training is of more tokens than a count can be
        yield "tokens", f"expected at least 1, found {plan.tokens}"


def _plan_job(job: schema.PlanJob) -> Iterator[Problem]:
    longest = job.model.max_position_embeddings
    if job.data.sequence_length > longest:
        yield "data.sequence_length", f"{job.data.sequence_length} is above model.max_position_embeddings {longest}"


def _retention(retention: schema.RetentionSection) -> Iterator[Problem]:
    yield from rules.at_least(retention, 1, "artifact_versions")
    yield from rules.at_least(retention, 0, "run_days")


def _cluster(cluster: schema.Cluster) -> Iterator[Problem]:
    yield from rules.some_text(cluster, "home", "registry", "broker", "store")
    if cluster.broker != "embedded" and not re.match(r"rediss?://[^/\s]", cluster.broker):
        yield (
            "broker",
            f"expected embedded or a URL like redis://HOST:6379/0, found {_without_password(cluster.broker)}",
        )
    if cluster.broker_password_file is not None and (cluster.broker == "embedded" or "@" in cluster.broker):
        embedded = cluster.broker == "embedded"
        holder = "an embedded broker makes its own" if embedded else "cluster.broker has one already"
        yield "broker_password_file", f"{holder}; expected null"
    shortest = 3  # a lease is renewed every quarter of it, over a database that may be busy for a second
    if cluster.lease_seconds < shortest:
        yield "lease_seconds", f"expected at least {shortest}, found {cluster.lease_seconds}"
    yield from rules.at_most(cluster, rules.LARGEST_COUNT, "lease_seconds")
    # What is on one machine alone, its file of a database and its loopback, others cannot share.
    hosts = _hosts(cluster.services)
    if len(hosts) > 1:
        several = f"services on several hosts ({', '.join(hosts)})"
        if cluster.registry.startswith("sqlite"):
            yield "registry", f"SQLite does not do for {several}; expected postgresql+psycopg://…"
        if cluster.broker == "embedded":
            yield "broker", f"an embedded broker does not do for {several}; expected redis://…"


def _hosts(services: schema.Services) -> list[str]:
    """Returns the hosts of services, all names and addresses of loopback as one."""
    sections = (getattr(services, field.name) for field in dataclasses.fields(services))
    hosts = [section.host for section in sections if section is not None]
    return list(dict.fromkeys("127.0.0.1" if _is_loopback(host) else host for host in hosts))


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _without_password(url: str) -> str:
    return shown(re.sub(r"//.*@", "//…@", url))


def _services(services: schema.Services) -> Iterator[Problem]:
    taken: dict[tuple[str, int], str] = {}
    for field in dataclasses.fields(services):
        section: schema.ServiceSection | None = getattr(services, field.name)
        if section is None:
            continue
        host = "127.0.0.1" if _is_loopback(section.host) else section.host
        for name in ("port", "metrics_port"):
            port = getattr(section, name)
            if port is None:
                continue
            holder = taken.setdefault((host, port), f"{field.name}.{name}")
            if holder != f"{field.name}.{name}":
                problem = f"{port} is cluster.services.{holder} already; expected a port of its own"
                yield f"{field.name}.{name}", problem
    for name, text in (("inference", "the inference service"), ("gateway", "the gateway")):
        section = getattr(services, name)
        if section is not None and section.workers != 0:
            yield f"{name}.workers", f"{text} takes no jobs; expected 0, found {section.workers}"
    if services.gateway is not None and services.gateway.metrics_port is not None:
        yield "gateway.metrics_port", "the gateway has its metrics at /metrics of its port; expected null"


def _service(section: schema.ServiceSection) -> Iterator[Problem]:
    for name in ("port", "metrics_port"):
        port = getattr(section, name)
        if port is not None and not 1 <= port <= 65535:
            yield name, f"expected 1 to 65535, found {port}"
    for name in ("host", "bind", "metrics_bind"):
        value = getattr(section, name)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_.:%-]+", value):
            yield name, f"expected the name or address of a host, found {shown(value)}"
    yield from rules.at_least(section, 0, "workers")


def _security(section: schema.SecuritySection) -> Iterator[Problem]:
    yield from rules.some_text(section, "token_file", "tokens")
    for index, url in enumerate(section.urls):
        if not re.fullmatch(r"[a-z][a-z0-9+]*://[^/\s@\\]+(/[^\s\\]*)?", url):
            yield ("urls", index), f"expected a URL like s3://bucket/folder, found {shown(url)}"
    files = {section.token_file: "token_file"}
    if files.setdefault(section.tokens, "tokens") != "tokens":
        yield "tokens", "is cluster.security.token_file already; expected a file of its own"
    for name, tenant in section.tenants.items():
        if not rules.NAME.fullmatch(name):
            yield ("tenants", name), f"cannot be a name; use {rules.NAME_RULE}"
        holder = files.setdefault(tenant.token_file, f"tenants.{name}")
        if holder != f"tenants.{name}":
            where = ("tenants", name, "token_file")
            yield where, f"is cluster.security.{holder} already; expected a file of its own"


def _audit(section: schema.AuditSection) -> Iterator[Problem]:
    yield from rules.some_text(section, "folder")
    yield from rules.at_least(section, 1, "files")
    yield from rules.above_zero(section, "file_mib")


def _tenant(section: schema.TenantSection) -> Iterator[Problem]:
    yield from rules.some_text(section, "token_file")
    yield from rules.at_least(section, 1, "requests_per_minute", "tokens_per_minute", "concurrent_requests")
    if section.expires is not None:
        try:
            datetime.fromisoformat(section.expires)
        except ValueError:
            yield "expires", f"expected a day or a time like 2027-01-31T12:00:00Z, found {shown(section.expires)}"


def _observability(section: schema.ObservabilitySection) -> Iterator[Problem]:
    if section.traces is not None and not re.match(r"https?://[^/\s]+", section.traces):
        yield "traces", f"expected a URL like http://127.0.0.1:4317, found {shown(section.traces)}"
    if section.log_prompts and not section.log_requests:
        yield "log_prompts", "stands for nothing without log_requests"


def _tls(section: schema.TlsSection) -> Iterator[Problem]:
    yield from rules.some_text(section, *(field.name for field in dataclasses.fields(section)))
    for given, other in (("client_certificate", "client_key"), ("client_key", "client_certificate")):
        if getattr(section, given) is not None and getattr(section, other) is None:
            yield other, f"missing; {given} stands for nothing without it"


_CHECKS: dict[type, Callable[[Any], Iterator[Problem]]] = {
    schema.Job: _job,
    schema.SchedulingSection: check_scheduling,
    schema.ModelSection: _model,
    schema.TokenizerSection: _tokenizer,
    schema.TokenizerFilters: _tokenizer_filters,
    schema.TokenizerInputs: _tokenizer_inputs,
    schema.TokenizerJob: _tokenizer_job,
    schema.TextInputs: _text_inputs,
    schema.TokenizeInputs: _tokenize_inputs,
    schema.TokenizeSection: _tokenize,
    schema.TokenizeJob: _tokenize_job,
    schema.WeightedDataset: _dataset,
    schema.TrainingInputs: _training_inputs,
    schema.DataSection: _data,
    schema.TrainSection: _train,
    schema.RecomputeSection: _recompute,
    schema.GuardSection: _guard,
    schema.WandbSection: _wandb,
    schema.OptimizerSection: _optimizer,
    schema.CheckpointSection: _checkpoint,
    schema.EvaluationSection: _evaluation,
    schema.TrainingJob: _training,
    schema.PretrainJob: _pretrain,
    schema.FinetuneJob: _finetune,
    schema.LoraSection: _lora,
    schema.SamplingSection: _sampling,
    schema.ServingSection: _serving,
    schema.ModelInput: _model_input,
    schema.DeployInputs: _deploy_inputs,
    schema.GenerateInputs: _generate_inputs,
    schema.EvaluateInputs: _evaluate_inputs,
    schema.EvaluateSection: _evaluate_section,
    schema.SandboxSection: _sandbox,
    schema.ConvertInputs: _convert_inputs,
    schema.ConvertOutputs: _convert_outputs,
    schema.TargetSection: _target,
    schema.EvaluateJob: _evaluate,
    schema.GatherSection: _gather,
    schema.JudgeInputs: _judge_inputs,
    schema.GateSection: _gate,
    schema.ReleaseInputs: _release_inputs,
    schema.ReleaseJob: _release,
    schema.AnswerInputs: _answer_inputs,
    schema.AnswerJob: _answer,
    schema.PipelineJob: _pipeline,
    schema.Topology: _topology,
    schema.SlurmSection: _slurm,
    schema.KubernetesSection: _kubernetes,
    schema.Nodes: _nodes,
    schema.Parallel: _parallel,
    schema.PlanSection: _plan,
    schema.PlanJob: _plan_job,
    schema.Cluster: _cluster,
    schema.RetentionSection: _retention,
    schema.Services: _services,
    schema.ServiceSection: _service,
    schema.SecuritySection: _security,
    schema.TlsSection: _tls,
    schema.AuditSection: _audit,
    schema.TenantSection: _tenant,
    schema.ObservabilitySection: _observability,
}


def _output_check(section: Any) -> Iterator[Problem]:
    yield from rules.names(section, dataclasses.fields(section)[0].name)


for _outputs in (
    schema.TokenizerOutputs,
    schema.DatasetOutputs,
    schema.ModelOutputs,
    schema.ReportOutputs,
    schema.RequestsOutputs,
):
    _CHECKS[_outputs] = _output_check
