# ruff: noqa: E501  a row of a table stays on its line
"""Every way to get a manifest wrong, and the one line that it is answered with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.yuan_manifest.conftest import MODEL

from yuan_events import InputError
from yuan_manifest import (
    ManifestError,
    check_run,
    job_of_plain,
    load_cluster,
    load_job,
    load_pipeline,
    resolve_topology,
    topology_of_plain,
)
from yuan_manifest.schema import TrainingJob

Replace = Callable[[str, str, str], None]
NAME = "NAME: 1 to 63 of a-z 0-9 . _ -, the first a letter or digit"
TRAIN_KEYS = (
    "steps, global_batch_size, micro_batch_size, precision, seed, eod_mask_loss, recompute, loss_block_tokens, "
    "attention, hidden_dropout, attention_dropout, compile, guard, step_timeout_seconds"
)
OPTIMIZER_KEYS = "name, lr, min_lr, warmup_steps, decay, restart_steps, betas, eps, weight_decay, clip_grad"
KINDS = (
    "tokenizer, tokenize, pretrain, finetune, plan, generate, convert, evaluate, deploy, gather, judge, release, "
    "answer, pipeline"
)


def line_of(error: pytest.ExceptionInfo[ManifestError]) -> str:
    assert isinstance(error.value, InputError)
    assert error.value.exit_code == 2
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


EDITED = {
    "unknown key": ("steps: 20", "stepz: 20", f"job.yaml:8: train.stepz: unknown key; expected one of {TRAIN_KEYS}; did you mean train.steps?"),
    "unknown key that lives elsewhere": ("steps: 20", "steps: 20, lr: 1", f"job.yaml:8: train.lr: unknown key; expected one of {TRAIN_KEYS}; did you mean optimizer.lr?"),
    "unknown key unlike any": ("steps: 20", "steps: 20, xyzzy: 1", f"job.yaml:8: train.xyzzy: unknown key; expected one of {TRAIN_KEYS}"),
    "unknown key whose exact name lives elsewhere": ("steps: 20", "steps: 20, eps: 1", f"job.yaml:8: train.eps: unknown key; expected one of {TRAIN_KEYS}; did you mean optimizer.eps?"),
    "unknown key like one here that lives elsewhere": ("warmup_steps: 2", "steps: 2", f"job.yaml:9: optimizer.steps: unknown key; expected one of {OPTIMIZER_KEYS}; did you mean train.steps?"),
    "key by its other name": ("lr: 1e-3", "learning_rate: 1e-3", f"job.yaml:9: optimizer.learning_rate: unknown key; expected one of {OPTIMIZER_KEYS}; did you mean optimizer.lr?"),
    "key by its other name elsewhere": ("steps: 20", "steps: 20, learning_rate: 1e-3", f"job.yaml:8: train.learning_rate: unknown key; expected one of {TRAIN_KEYS}; did you mean optimizer.lr?"),
    "dotted key": ("name: small", "name: small\ntrain.seed: 1", "job.yaml:5: 'train.seed': unknown key; expected one of version, kind, name, topology, scheduling, inputs, data, train, optimizer, checkpoint, evaluation, tracking, outputs, model; did you mean train.seed?"),
    "text for a whole number": ("steps: 20", "steps: abc", "job.yaml:8: train.steps: expected a whole number, found 'abc'"),
    "quoted number": ("steps: 20", "steps: '20'", "job.yaml:8: train.steps: expected a whole number, found '20'"),
    "fraction for a whole number": ("steps: 20", "steps: 1e3", "job.yaml:8: train.steps: expected a whole number, found 1e3"),
    "true for a whole number": ("steps: 20", "steps: true", "job.yaml:8: train.steps: expected a whole number, found true"),
    "null for a whole number": ("steps: 20", "steps: null", "job.yaml:8: train.steps: expected a whole number, found null"),
    "nothing for a whole number": ("steps: 20", "steps: ", "job.yaml:8: train.steps: expected a whole number, found null"),
    "list for a whole number": ("steps: 20", "steps: [20]", "job.yaml:8: train.steps: expected a whole number, found a list"),
    "section for a whole number": ("steps: 20", "steps: {a: 1}", "job.yaml:8: train.steps: expected a whole number, found a section"),
    "infinity": ("lr: 1e-3", "lr: .inf", "job.yaml:9: optimizer.lr: expected a finite number, found .inf"),
    "not a number": ("lr: 1e-3", "lr: .nan", "job.yaml:9: optimizer.lr: expected a finite number, found .nan"),
    "number too large": ("lr: 1e-3", "lr: 1e999", "job.yaml:9: optimizer.lr: expected a finite number, found 1e999"),
    "whole number too large for a float": ("lr: 1e-3", f"lr: {'9' * 400}", f"job.yaml:9: optimizer.lr: expected a finite number, found {'9' * 58}…9"),
    "YAML 1.1 boolean": ("steps: 20", "steps: 20, eod_mask_loss: off", "job.yaml:8: train.eod_mask_loss: expected true or false, found 'off'"),
    "true for text": ("name: small", "name: true", "job.yaml:4: name: expected text, found true; quote it: 'true'"),
    "number for text": ("name: small", "name: 007", "job.yaml:4: name: expected text, found 007; quote it: '007'"),
    "null for text": ("name: small", "name: ~", "job.yaml:4: name: expected text, found null"),
    "list for text": ("name: small", "name: [a]", "job.yaml:4: name: expected text, found a list"),
    "text for a list": ("split: [0.8, 0.1, 0.1]", "split: 0.8", "job.yaml:7: data.split: expected a list, found 0.8; write [a, b] or lines of `- a`"),
    "text in a list of numbers": ("split: [0.8, 0.1, 0.1]", "split: [0.8, x, 0.1]", "job.yaml:7: data.split[1]: expected a number, found 'x'"),
    "text for a section": ("optimizer: {lr: 1e-3, warmup_steps: 2}", "optimizer: adamw", "job.yaml:9: optimizer: expected a section of `key: value`, found 'adamw'"),
    "no choice": ("steps: 20", "steps: 20, precision: bf17", "job.yaml:8: train.precision: expected one of auto, fp32, bf16, fp16, found 'bf17'; did you mean bf16?"),
    "missing value": ("steps: 20, ", "", "job.yaml:8: train.steps: missing; it has no default; give a whole number"),
    "missing section": ("outputs: {model: small}\n", "", "job.yaml:1: outputs.model: missing; it has no default; give text"),
    "missing value in a list": ("{name: text, weight: 1.0}", "{weight: 1.0}", "job.yaml:5: inputs.datasets[0].name: missing; it has no default; give text"),
    "mark of a missing value": ("steps: 20", "steps: 20, precision: '???'", "job.yaml:8: train.precision: expected one of auto, fp32, bf16, fp16, found '???'"),
    "mark of a missing text": ("name: small", "name: '???'", "job.yaml:4: name: ??? stands for a missing value; give text"),
    "unknown kind": ("kind: pretrain", "kind: pretrian", f"job.yaml:3: kind: expected one of {KINDS}, found 'pretrian'; did you mean pretrain?"),
    "kind of no text": ("kind: pretrain", "kind: [pretrain]", f"job.yaml:3: kind: expected one of {KINDS}, found a list"),
    "no kind": ("kind: pretrain\n", "", f"job.yaml:1: kind: missing; expected one of {KINDS}"),
    "cluster in a job": ("name: small", "name: small\ncluster: {home: x}", "job.yaml:5: cluster: stands in a cluster manifest, never in a job; give the cluster's file with -f or YUAN_CLUSTER"),
    "no version": ("version: 1\n", "", "job.yaml:1: version: missing; write `version: 1`"),
    "another version": ("version: 1", "version: 2", "job.yaml:1: version: expected 1, the only version that this program reads, found 2"),
    "true version": ("version: 1", "version: true", "job.yaml:1: version: expected 1, the only version that this program reads, found true"),
    "duplicate key": ("name: small", "name: small\nname: other", "job.yaml:5: name: duplicate key; it already stands in line 4"),
    "duplicate key below": ("steps: 20", "steps: 20, steps: 30", "job.yaml:8: train.steps: duplicate key; it already stands in line 8"),
    "key that is no text": ("steps: 20", "steps: 20, 1: 2", "job.yaml:8: train: the key 1 is not text; quote it: '1'"),
    "list as a key": ("steps: 20", "steps: 20, [1]: 2", "job.yaml:8: train: a list or section as a key; keys are words"),
    "merge key": ("steps: 20", "steps: 20, <<: {seed: 1}", "job.yaml:8: train: merge keys (<<) are not understood; use extends"),
    "object tag": ("steps: 20", "steps: !!python/object:os.system x", "job.yaml:8: train.steps: the tag tag:yaml.org,2002:python/object:os.system is not understood here; leave it out"),
    "tagged section": ("train: {", "train: !thing {", "job.yaml:8: train: the tag !thing is not understood here; leave it out"),
    "tag that lies": ("steps: 20", "steps: !!int x", "job.yaml:8: train.steps: 'x' is no int"),
    "alias of itself": ("train: {", "train: &a {b: *a, ", "job.yaml:8: train.b: an alias (*) inside its own anchor (&)"),
    "lone surrogate": ("name: small", 'name: "\\ud800"', "job.yaml:4: name: half a character (a lone surrogate) in the text"),
    "not YAML": ("train: {", "train: {{", "job.yaml:9: not YAML: column 1: expected ',' or '}', but got '<scalar>'"),
    "tab": ("name: small", "\tname: small", "job.yaml:4: not YAML: column 1: found character '\\t' that cannot start any token"),
    "control character": ("name: small", "name: sm\x01all", "job.yaml:4: not YAML: column 9: the character '\\x01' is not allowed"),
    "two documents": ("name: small", "---\nname: small", "job.yaml:4: not YAML: column 1: but found another document"),
    "unset variable": ("steps: 20", "steps: '${oc.env:YUAN_TEST_UNSET}'", "job.yaml:8: train.steps: the environment variable YUAN_TEST_UNSET is not set; set it, or give a default: ${oc.env:YUAN_TEST_UNSET,default}"),
    "interpolation of no key": ("steps: 20", "steps: '${train.sed}'", "job.yaml:8: train.steps: ${train.sed} names no key of this manifest"),
    "interpolation of itself": ("steps: 20", "steps: '${train.steps}'", "job.yaml:8: train.steps: refers to itself through ${…}"),
    "interpolation in a circle": ("steps: 20", "steps: '${train.seed}', seed: '${train.steps}'", "job.yaml:8: train.steps: refers to itself through ${…}"),
    "unknown resolver": ("steps: 20", "steps: '${env:HOME}'", "job.yaml:8: train.steps: ${env:…} is unknown; expected ${oc.env:NAME,default} or ${key.path}"),
    "interpolation of another type": ("steps: 20", "steps: '${name}'", "job.yaml:8: train.steps: expected a whole number, found 'small', which ${name} stands for"),
    "interpolation of a section for text": ("name: small", "name: '${train}'", "job.yaml:4: name: expected text, found a section, which ${train} stands for"),
    "interpolation of a section for a whole number": ("steps: 20", "steps: '${model}'", "job.yaml:8: train.steps: expected a whole number, found a section, which ${model} stands for"),
    "interpolation of a list for a choice": ("steps: 20", "steps: 20, precision: '${data.split}'", "job.yaml:8: train.precision: expected one of auto, fp32, bf16, fp16, found a list, which ${data.split} stands for"),
    "interpolation of a list in a list": ("split: [0.8,", "split: ['${optimizer.betas}',", "job.yaml:7: data.split[0]: expected a single value, found a list, which ${optimizer.betas} stands for"),
    "interpolation of its own section": ("steps: 20", "steps: '${train}'", "job.yaml:8: train.steps: refers to itself through ${…}"),
    "interpolation of no choice": ("steps: 20", "steps: 20, precision: '${name}'", "job.yaml:8: train.precision: expected one of auto, fp32, bf16, fp16, found 'small', which ${name} stands for"),
    "interpolated infinity": ("lr: 1e-3", "lr: '${oc.env:YUAN_TEST_UNSET,inf}'", "job.yaml:9: optimizer.lr: expected a finite number, found inf"),
    "unfinished interpolation": ("name: small", "name: '${'", "job.yaml:4: name: '${' cannot be read; inside ${…} quote what is no plain word, and write \\${ for a ${ that is text"),
    "interpolation for a section": ("train: {steps: 20, global_batch_size: 8, micro_batch_size: 2}", "train: ${data}", "job.yaml:8: train: expected a section of `key: value`, found '${data}'"),
    "missing parent": ("extends: model.yaml", "extends: modle.yaml", "job.yaml:2: extends: modle.yaml: no such file; did you mean model.yaml?"),
    "missing parent's folder": ("extends: model.yaml", "extends: [models/x.yaml]", "job.yaml:2: extends[0]: models/x.yaml: no such file: there is no folder 'models'"),
    "folder as a parent": ("extends: model.yaml", "extends: .", "job.yaml:2: extends: .: is a folder; expected a manifest file"),
    "parent in the home of nobody": ("extends: model.yaml", "extends: ~nobody-of-that-name/a.yaml", "job.yaml:2: extends: ~nobody-of-that-name/a.yaml: no such file: there is no folder '~nobody-of-that-name'"),
    "circle of parents": ("extends: model.yaml", "extends: job.yaml", "job.yaml:2: extends: 'job.yaml' extends this file in turn; take one of the two out"),
    "parent that is no path": ("extends: model.yaml", "extends: [1]", "job.yaml:2: extends[0]: expected the path of a manifest or a list of them, found 1"),
    "name": ("name: small", "name: Big Model", "job.yaml:4: name: expected a name (1 to 63 of a-z 0-9 . _ -, the first a letter or digit), found 'Big Model'"),
    "output with a version": ("outputs: {model: small}", "outputs: {model: small@2}", "job.yaml:6: outputs.model: expected a name (1 to 63 of a-z 0-9 . _ -, the first a letter or digit), found 'small@2'"),
    "reference": ("tokenizer: demo", "tokenizer: demo@x", f"job.yaml:5: inputs.tokenizer: expected NAME or NAME@VERSION ({NAME}), found 'demo@x'"),
    "weight": ("weight: 1.0", "weight: 0", "job.yaml:5: inputs.datasets[0].weight: expected more than 0, found 0.0"),
    "no datasets": ("[{name: text, weight: 1.0}]", "[]", "job.yaml:5: inputs.datasets: is empty; expected at least one item"),
    "no steps": ("steps: 20", "steps: 0", "job.yaml:8: train.steps: expected at least 1, found 0"),
    "seed": ("steps: 20", "steps: 20, seed: -1", "job.yaml:8: train.seed: expected 0 to 2^32 - 1, found -1"),
    "too many steps": ("steps: 20", "steps: 100000000000", "job.yaml:8: train.steps: expected at most 2147483647, found 100000000000"),
    "steps of more than 64 bits": ("steps: 20", f"steps: 1{'0' * 30}", f"job.yaml:8: train.steps: expected a whole number of at most 2^63 - 1, found 1{'0' * 30}"),
    "steps that overflow with their samples": ("steps: 20", "steps: 2000000000", "job.yaml:8: train.steps: 2000000000 x train.global_batch_size 8 are 16000000000 samples; expected at most 2147483647"),
    "seed that numpy does not take": ("steps: 20", "steps: 20, seed: 4294967296", "job.yaml:8: train.seed: expected 0 to 2^32 - 1, found 4294967296"),
    "validation without documents": ("split: [0.8, 0.1, 0.1]", "split: [1, 0, 0]}\nevaluation: {samples: 8", "job.yaml:7: data.split[1]: no documents for validation, but evaluation.samples is 8; raise the first or set the second to 0"),
    "batch": ("micro_batch_size: 2", "micro_batch_size: 3", "job.yaml:8: train.global_batch_size: 8 is no multiple of train.micro_batch_size 3"),
    "dropout of all": ("steps: 20", "steps: 20, hidden_dropout: 1", "job.yaml:8: train.hidden_dropout: expected at least 0 and less than 1, found 1.0"),
    "dropout of attention": ("steps: 20", "steps: 20, attention_dropout: -0.1", "job.yaml:8: train.attention_dropout: expected at least 0 and less than 1, found -0.1"),
    "two shares": ("split: [0.8, 0.1, 0.1]", "split: [0.8, 0.2]", "job.yaml:7: data.split: expected 3 shares (training, validation, test), found 2"),
    "no shares": ("split: [0.8, 0.1, 0.1]", "split: []", "job.yaml:7: data.split: expected 3 shares (training, validation, test), found 0"),
    "negative share": ("split: [0.8, 0.1, 0.1]", "split: [0.8, -0.1, 0.1]", "job.yaml:7: data.split[1]: expected at least 0, found -0.1"),
    "nothing to train on": ("split: [0.8, 0.1, 0.1]", "split: [0, 1, 1]", "job.yaml:7: data.split[0]: expected more than 0, found 0.0; without training documents there is no training"),
    "sequence too long": ("sequence_length: 32", "sequence_length: 65", "job.yaml:7: data.sequence_length: 65 is above model.max_position_embeddings 64"),
    "learning rate": ("lr: 1e-3", "lr: 0", "job.yaml:9: optimizer.lr: expected more than 0, found 0.0"),
    "smallest learning rate": ("lr: 1e-3", "lr: 1e-3, min_lr: 0.01", "job.yaml:9: optimizer.min_lr: 0.01 is above optimizer.lr 0.001"),
    "warm-up": ("warmup_steps: 2", "warmup_steps: 21", "job.yaml:9: optimizer.warmup_steps: 21 is above train.steps 20; lower the first or raise the second"),
    "betas": ("lr: 1e-3", "lr: 1e-3, betas: [0.9, 1]", "job.yaml:9: optimizer.betas[1]: expected at least 0 and less than 1, found 1.0"),
    "one beta": ("lr: 1e-3", "lr: 1e-3, betas: [0.9]", "job.yaml:9: optimizer.betas: expected 2 numbers, found 1"),
    "optimizer": ("lr: 1e-3", "lr: 1e-3, name: adam", "job.yaml:9: optimizer.name: expected one of adamw, muon, found 'adam'; did you mean adamw?"),
    "restart within warm-up": ("warmup_steps: 2", "warmup_steps: 2, restart_steps: 2", "job.yaml:9: optimizer.restart_steps: 2 ends before optimizer.warmup_steps 2 are over; expected more, or 0 for a schedule that does not begin anew"),
    "restart": ("lr: 1e-3", "lr: 1e-3, restart_steps: -1", "job.yaml:9: optimizer.restart_steps: expected at least 0, found -1"),
    "recomputed layers": ("steps: 20", "steps: 20, recompute: {every_layers: 0}", "job.yaml:8: train.recompute.every_layers: expected at least 1, found 0"),
    "loss block": ("steps: 20", "steps: 20, loss_block_tokens: -1", "job.yaml:8: train.loss_block_tokens: expected at least 0, found -1"),
    "time of a step": ("steps: 20", "steps: 20, step_timeout_seconds: 0", "job.yaml:8: train.step_timeout_seconds: expected at least 1, found 0"),
    "ignored losses that are no numbers": ("steps: 20", "steps: 20, guard: {nonfinite: ignore}", "job.yaml:8: train.guard.nonfinite: ignore would spoil every weight with the first such step; expected skip, rollback or stop"),
    "spike factor": ("steps: 20", "steps: 20, guard: {spike_factor: 1}", "job.yaml:8: train.guard.spike_factor: expected more than 1, found 1.0; it is a multiple of the mean loss"),
    "spike window": ("steps: 20", "steps: 20, guard: {spike_window: 0}", "job.yaml:8: train.guard.spike_window: expected at least 1, found 0"),
    "most skipped": ("steps: 20", "steps: 20, guard: {most: 0}", "job.yaml:8: train.guard.most: expected at least 1, found 0"),
    "best of nothing": ("name: small", "name: small\ncheckpoint: {best: true}", "job.yaml:5: checkpoint.best: the best weights are those of the lowest validation loss, but evaluation.samples is 0; raise it, or set checkpoint.best=false"),
    "tracker without a project": ("name: small", "name: small\ntracking: {wandb: {}}", "job.yaml:5: tracking.wandb.project: missing; it has no default; give text"),
    "tracker's mode": ("name: small", "name: small\ntracking: {wandb: {project: p, mode: offlin}}", "job.yaml:5: tracking.wandb.mode: expected one of online, offline, found 'offlin'; did you mean offline?"),
    "kept states": ("name: small", "name: small\ncheckpoint: {keep: 0}", "job.yaml:5: checkpoint.keep: expected at least 1, found 0"),
    "evaluation": ("name: small", "name: small\nevaluation: {samples: -1}", "job.yaml:5: evaluation.samples: expected at least 0, found -1"),
    "job's tensor size": ("name: small", "name: small\ntopology: {parallel: {tensor: 0}}", "job.yaml:5: topology.parallel.tensor: expected at least 1, found 0"),
    "job's topology key": ("name: small", "name: small\ntopology: {parallel: {stage: 2}}", "job.yaml:5: topology.parallel.stage: unknown key; expected one of pipeline, stages, tensor, sequence, data, zero_stage; did you mean topology.parallel.stages?"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED.values(), ids=list(EDITED))
def test_a_wrong_job_is_one_line(case: tuple[str, str, str], replaced: Replace) -> None:
    old, new, expected = case
    replaced("job.yaml", old, new)
    with pytest.raises(ManifestError) as error:
        load_job("job.yaml")
    assert line_of(error) == expected


IN_FRAGMENT = {
    "unknown key": ("vocab_size", "vocabsize", "model.yaml:3: model.vocabsize: unknown key; expected one of vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings, rms_norm_eps, rope_theta, rope_precision, localized_filtering, attention_reset_at_eod, initializer_range; did you mean model.vocab_size?"),
    "missing value": ("  vocab_size: 512\n", "", "model.yaml:2: model.vocab_size: missing; it has no default; give a whole number"),
    "wrong type": ("vocab_size: 512", "vocab_size: many", "model.yaml:3: model.vocab_size: expected a whole number, found 'many'"),
    "version": ("model:", "version: 3\nmodel:", "model.yaml:2: version: expected 1, the only version that this program reads, found 3"),
    "odd width": ("hidden_size: 64", "hidden_size: 65", "model.yaml:4: model.hidden_size: expected an even number, found 65"),
    "heads": ("heads: 4", "heads: 6", "model.yaml:6: model.num_attention_heads: 6 does not divide model.hidden_size 64"),
    "head dimension": ("heads: 4", "heads: 64", "model.yaml:6: model.num_attention_heads: hidden_size 64 / 64 heads is an odd head dimension, 1"),
    "no heads": ("heads: 4", "heads: 0", "model.yaml:6: model.num_attention_heads: expected at least 1, found 0"),
    "epsilon": ("vocab_size: 512", "rms_norm_eps: 0\n  vocab_size: 512", "model.yaml:3: model.rms_norm_eps: expected more than 0, found 0.0"),
    "list": ("model:", "- model:", "model.yaml:2: expected a manifest (lines of `key: value`, the first `version: 1`), found a list"),
    "circle": ("model:", "extends: job.yaml\nmodel:", "model.yaml:2: extends: 'job.yaml' extends this file in turn; take one of the two out"),
    "cluster": ("model:", "cluster: {}\nmodel:", "model.yaml:2: cluster: stands in a cluster manifest, never in a job; give the cluster's file with -f or YUAN_CLUSTER"),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_FRAGMENT.values(), ids=list(IN_FRAGMENT))
def test_an_error_names_the_file_in_which_the_key_stands(case: tuple[str, str, str], replaced: Replace) -> None:
    old, new, expected = case
    replaced("model.yaml", old, new)
    with pytest.raises(ManifestError) as error:
        load_job("job.yaml")
    assert line_of(error) == expected


OVERRIDDEN = {
    "no equals sign": ("train.steps", "override: expected key=value, found 'train.steps'"),
    "no key": ("=3", "override: expected key=value with a key like train.steps, found '=3'"),
    "half a key": ("train..steps=3", "override: expected key=value with a key like train.steps, found 'train..steps=3'"),
    "unknown key": ("train.stepz=3", f"override: train.stepz: unknown key; expected one of {TRAIN_KEYS}; did you mean train.steps?"),
    "wrong type": ("train.steps=x", "override: train.steps: expected a whole number, found 'x'"),
    "null": ("name=null", "override: name: expected text, found null"),
    "nothing": ("name=", "override: name: expected a name (1 to 63 of a-z 0-9 . _ -, the first a letter or digit), found ''"),
    "not YAML": ("train.steps=[1", "override: train.steps: not YAML: column 3: expected ',' or ']', but got '<stream end>'"),
    "control character": ("name=\x01", "override: name: not YAML: column 1: the character '\\x01' is not allowed"),
    "past the end of a list": ("data.split[3]=1", "override: data.split[3]: no such item; the list has 3, counted from 0"),
    "word in a list": ("data.split.first=1", "override: data.split.first: a list stands at data.split; expected an item's number, from 0"),
    "index without a list": ("train[0]=1", "override: train[0]: no list stands at train"),
    "key below a value": ("train.steps.more=1", "override: train.steps.more: train.steps is neither a section nor a list"),
    "version": ("version=2", "override: version: expected 1, the only version that this program reads, found 2"),
    "extends": ("extends=x", "override: extends: unknown key; expected one of version, kind, name, topology, scheduling, inputs, data, train, optimizer, checkpoint, evaluation, tracking, outputs, model"),
    "cluster": ("cluster.home=x", "override: cluster: stands in a cluster manifest, never in a job; give the cluster's file with -f or YUAN_CLUSTER"),
    "unset variable": ("train.steps=${oc.env:YUAN_TEST_UNSET}", "override: train.steps: the environment variable YUAN_TEST_UNSET is not set; set it, or give a default: ${oc.env:YUAN_TEST_UNSET,default}"),
    "batch against the file": ("train.micro_batch_size=3", "job.yaml:8: train.global_batch_size: 8 is no multiple of train.micro_batch_size 3"),
    "stages of no kind": ("topology.parallel.stages=even", "override: topology.parallel.stages: expected auto, uniform, or the layers of each stage like [1, 3], found 'even'"),
    "no stages": ("topology.parallel.stages=[]", "override: topology.parallel.stages: expected auto, uniform, or the layers of each stage like [1, 3], found an empty list"),
    "stage without layers": ("topology.parallel.stages=[4,0]", "override: topology.parallel.stages[1]: expected a whole number from 1, found 0"),
    "data": ("topology.parallel.data=all", "override: topology.parallel.data: expected auto or a whole number from 1, found 'all'"),
    "zero stage": ("topology.parallel.zero_stage=4", "override: topology.parallel.zero_stage: expected 0, 1, 2 or 3, found 4"),
    "stage sum": ("topology.parallel.stages=[2,3]", "override: topology.parallel.stages: [2, 3] sum to 5, but model.num_hidden_layers is 4"),
    "stage sum against the layers": ("model.num_hidden_layers=5", "cluster.yaml:6: topology.parallel.stages: [1, 3] sum to 4, but model.num_hidden_layers is 5"),
    "stage count": ("topology.parallel.pipeline=3", "cluster.yaml:6: topology.parallel.stages: [1, 3] are 2 stages, but topology.parallel.pipeline is 3; set topology.parallel.pipeline=2, or topology.parallel.stages=auto"),
    "zero stage with stages": ("topology.parallel.zero_stage=0", "override: topology.parallel.zero_stage: 0 with 2 pipeline stages; expected 1"),
    "zero stage 2 with stages": ("topology.parallel.zero_stage=2", "override: topology.parallel.zero_stage: 2 with 2 pipeline stages; expected 1"),
    "zero stage 2 with tensor parallelism": ("topology.parallel={pipeline: 1, stages: auto, tensor: 2, zero_stage: 2}", "override: topology.parallel.zero_stage: 2 with tensor parallelism (topology.parallel.tensor 2); expected 0 or 1"),
    "tensor size and heads": ("topology.parallel={pipeline: 1, stages: auto, tensor: 3}", "override: topology.parallel.tensor: 3 does not divide model.num_attention_heads 4; choose one that does"),
    "more stages than layers": ("topology.parallel={pipeline: 5, stages: auto}", "override: topology.parallel.pipeline: 5 stages for 4 layers (model.num_hidden_layers); every stage needs one"),
    "too many ranks": ("topology.parallel.data=3", "override: topology.parallel.data: data 3 x pipeline 2 x tensor 1 are 6 ranks, more than the devices, 1 x 4 = 4; set topology.nodes.devices=6, or fewer ranks"),
    "too few devices": ("topology.nodes.devices=1", "cluster.yaml:6: topology.parallel.pipeline: data 1 x pipeline 2 x tensor 1 are 2 ranks, more than the devices, 1 x 1 = 1; set topology.nodes.devices=2, or fewer ranks"),
    "batch over the ranks": ("train.global_batch_size=6", "override: train.global_batch_size: 6 is no multiple of 4, which is train.micro_batch_size 2 x 2 data-parallel ranks (topology.parallel.data)"),
    "hosts": ("topology.nodes.count=2", "override: topology.nodes.count: 2 hosts, but launcher local starts ranks on this one; expected 1, or hostfile, slurm, kubernetes"),
    "port": ("topology.port=0", "override: topology.port: expected 1 to 65535, found 0"),
    "no hostfile": ("topology={launcher: hostfile, nodes: {device: cpu}}", "override: topology.hostfile: missing; launcher hostfile needs a file of lines HOST slots=N"),
    "no claim": ("topology={launcher: kubernetes, nodes: {device: cpu}}", "override: topology.kubernetes: missing; launcher kubernetes needs its section, with claim: NAME"),
    "namespace": ("topology.kubernetes={claim: a, namespace: A_b}", "override: topology.kubernetes.namespace: expected a name of a-z 0-9 -, found 'A_b'"),
    "device resource": ("topology.kubernetes={claim: a, device_resource: gpu}", "override: topology.kubernetes.device_resource: expected a resource like nvidia.com/gpu, or null, found 'gpu'"),
    "device of other hosts": ("topology={launcher: slurm, nodes: {device: auto}}", "override: topology.nodes.device: what the hosts of launcher slurm compute on is not known here; expected cpu or cuda"),
    "slurm time": ("topology.slurm.time=soon", "override: topology.slurm.time: expected minutes, HH:MM:SS or DAYS-HH:MM:SS, found 'soon'"),
    "slurm option": ("topology.slurm.options=[-x]", "override: topology.slurm.options[0]: expected --NAME or --NAME=VALUE, found '-x'"),
    "slurm option with another line": ("topology.slurm.options=[\"--comment=a\\nrm\"]", "override: topology.slurm.options[0]: expected --NAME or --NAME=VALUE, found '--comment=a\\nrm'"),
    "slurm option of ours": ("topology.slurm.options=[--nodes=3]", "override: topology.slurm.options[0]: --nodes follows from topology.nodes.count; set that"),
    "slurm partition": ("topology.slurm.partition='a b'", "override: topology.slurm.partition: expected a name as Slurm has it, found 'a b'"),
    "device memory": ("topology.nodes.memory_gib=0", "override: topology.nodes.memory_gib: expected more than 0, found 0.0"),
    "device above its peak": ("topology.nodes={devices: 4, tflops: 2, peak_tflops: 1}", "override: topology.nodes.peak_tflops: 1.0 is below topology.nodes.tflops 2.0"),
    "interpolated devices": ("topology.nodes.devices=${oc.env:YUAN_TEST_UNSET,many}", "override: topology.nodes.devices: expected a whole number, found 'many'"),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERRIDDEN.values(), ids=list(OVERRIDDEN))
@pytest.mark.usefixtures("folder")
def test_a_wrong_override_is_one_line(case: tuple[str, str]) -> None:
    item, expected = case
    with pytest.raises(ManifestError) as error:
        load_job("job.yaml", [item], load_cluster("cluster.yaml"))
    assert line_of(error) == expected


OVERRIDDEN_TWICE = {
    "tensor size and vocabulary": ("model.vocab_size=510", "4 does not divide model.vocab_size 510; choose one that does"),
    "tensor size and feed-forward": ("model.intermediate_size=126", "4 does not divide model.intermediate_size 126; choose one that does"),
    "tensor size and sequence": ("data.sequence_length=30", "4 does not divide data.sequence_length 30; choose one that does, or topology.parallel.sequence=false"),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERRIDDEN_TWICE.values(), ids=list(OVERRIDDEN_TWICE))
@pytest.mark.usefixtures("folder")
def test_a_tensor_size_that_does_not_divide_is_one_line(case: tuple[str, str]) -> None:
    item, expected = case
    tensor = "topology.parallel={pipeline: 1, stages: auto, tensor: 4}"
    with pytest.raises(ManifestError) as error:
        load_job("job.yaml", [tensor, item], load_cluster("cluster.yaml"))
    assert line_of(error) == f"override: topology.parallel.tensor: {expected}"


@pytest.mark.parametrize(
    ("kind", "section", "parallel", "expected"),
    [
        ("pretrain", "optimizer: {lr: 1}\n" + MODEL, "zero_stage: 1", "optimizer.name: muon needs whole matrices, but topology.parallel.zero_stage is 1; expected 0, or optimizer.name=adamw"),
        ("pretrain", "optimizer: {lr: 1}\n" + MODEL, "tensor: 2, zero_stage: 0", "optimizer.name: muon needs whole matrices, but topology.parallel.tensor is 2; expected 1, or optimizer.name=adamw"),
    ],
)  # fmt: skip
def test_what_needs_whole_matrices_is_refused_where_ranks_have_parts(
    kind: str, section: str, parallel: str, expected: str
) -> None:
    inputs = "inputs: {tokenizer: a, datasets: [{name: b}], model: c}\noutputs: {model: d}"
    tree = yaml.safe_load(
        f"version: 1\nkind: {kind}\nname: x\n{inputs}\ntrain: {{steps: 1, global_batch_size: 4}}\n{section}"
    )
    job = job_of_plain({**tree, "data": {"sequence_length": 32}})
    assert isinstance(job, TrainingJob)
    if kind == "pretrain":
        job.optimizer.name = "muon"
    with pytest.raises(ManifestError) as error:
        check_run(job, topology_of_plain({"parallel": yaml.safe_load(f"{{{parallel}}}")}))
    assert line_of(error) == f"submitted job: {expected}"


OTHER_KINDS = {
    "no text": ("kind: tokenizer\ninputs: {text: []}\noutputs: {tokenizer: a}", "x.yaml:4: inputs.text: is empty; expected at least one item"),
    "taken tokenizer": ("kind: tokenizer\ninputs: {sentencepiece: yuan}\noutputs: {tokenizer: a}", "x.yaml:4: inputs.sentencepiece: expected a path, which has a /, found 'yuan'"),
    "trained and taken": ("kind: tokenizer\ninputs: {sentencepiece: ./a}\ntokenizer: {vocab_size: 900}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer: means nothing beside inputs.sentencepiece, which is taken as it is; remove one of them"),
    "added to a taken one": ("kind: tokenizer\ninputs: {sentencepiece: ./a, tokenizers: [b]}\noutputs: {tokenizer: a}", "x.yaml:4: inputs.tokenizers: adds pieces to a model that is trained; remove it, or inputs.sentencepiece"),
    "tokenizer by path": ("kind: tokenize\ninputs: {text: [a], tokenizer: ./yuan}\noutputs: {dataset: a}", "x.yaml:4: inputs.tokenizer: expected NAME or NAME@VERSION (NAME: 1 to 63 of a-z 0-9 . _ -, the first a letter or digit), found './yuan'; kind tokenizer makes an artifact of such a file (inputs.sentencepiece)"),
    "empty text": ("kind: tokenizer\ninputs: {text: ['']}\noutputs: {tokenizer: a}", "x.yaml:4: inputs.text[0]: is empty text"),
    "text that is no list": ("kind: tokenizer\ninputs: {text: a.txt}\noutputs: {tokenizer: a}", "x.yaml:4: inputs.text: expected a list, found 'a.txt'; write [a, b] or lines of `- a`"),
    "vocabulary": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {vocab_size: 100}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.vocab_size: expected at least 300 (256 byte pieces and the special tokens), found 100"),
    "shards": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {shards: 0}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.shards: expected at least 1, found 0"),
    "shard vocabulary": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {shard_vocab_size: 900}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.shard_vocab_size: means nothing for one model that is taken as it is; see tokenizer.shards"),
    "han": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {filters: {max_han: 0}}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.filters.max_han: expected at least 1, found 0"),
    "other tokenizer": ("kind: tokenizer\ninputs:\n  text: [a]\n  tokenizers: [b, b]\noutputs: {tokenizer: a}", "x.yaml:6: inputs.tokenizers[1]: 'b' is there twice"),
    "compared tokenizer": ("kind: tokenizer\ninputs:\n  text: [a]\n  compare: [a b]\noutputs: {tokenizer: a}", "x.yaml:6: inputs.compare[0]: expected NAME or NAME@VERSION (NAME: 1 to 63 of a-z 0-9 . _ -, the first a letter or digit), found 'a b'; or a path, which has a /"),
    "large vocabulary": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {vocab_size: 99999999999}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.vocab_size: expected at most 2147483647, found 99999999999"),
    "large sample": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {sample_megabytes: 1e300}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.sample_megabytes: expected at most 2147483647, found 1e+300"),
    "algorithm": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {algorithm: wordpiece}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.algorithm: expected one of unigram, bpe, found 'wordpiece'"),
    "sample": ("kind: tokenizer\ninputs: {text: [a]}\ntokenizer: {sample_megabytes: 0}\noutputs: {tokenizer: a}", "x.yaml:5: tokenizer.sample_megabytes: expected more than 0, found 0.0"),
    "workers": ("kind: tokenize\ninputs: {text: [a], tokenizer: a}\ntokenize: {workers: 0}\noutputs: {dataset: a}", "x.yaml:5: tokenize.workers: expected at least 1, found 0"),
    "prompts": ("kind: generate\ninputs: {model: a, prompts: []}\noutputs: {report: a}", "x.yaml:4: inputs.prompts: is empty; expected at least one item"),
    "model": ("kind: generate\ninputs: {model: a/b, prompts: [a]}\noutputs: {report: a}", f"x.yaml:4: inputs.model: expected NAME or NAME@VERSION ({NAME}), found 'a/b'"),
    "temperature": ("kind: generate\ninputs: {model: a, prompts: [a]}\nsampling: {temperature: -1}\noutputs: {report: a}", "x.yaml:5: sampling.temperature: expected at least 0, found -1.0"),
    "top_p": ("kind: generate\ninputs: {model: a, prompts: [a]}\nsampling: {top_p: 0}\noutputs: {report: a}", "x.yaml:5: sampling.top_p: expected more than 0 and at most 1, found 0.0"),
    "neither": ("kind: convert\ninputs: {}\noutputs: {model: a}", "x.yaml:4: inputs.model: expected exactly one of model and path, found neither"),
    "both": ("kind: convert\ninputs: {model: a}\noutputs: {model: a, path: b}", "x.yaml:5: outputs.model: expected exactly one of model and path, found both"),
    "no path": ("kind: convert\ninputs: {model: a}\noutputs: {path: ''}", "x.yaml:5: outputs.path: is empty text"),
    "dtype": ("kind: convert\ninputs: {model: a}\ntarget: {dtype: float16}\noutputs: {path: b}", "x.yaml:5: target.dtype: expected one of fp32, bf16, fp16, int8, found 'float16'"),
    "layout": ("kind: convert\ninputs: {model: a}\ntarget: {layout: hugging}\noutputs: {path: b}", "x.yaml:5: target.layout: expected one of native, megatron, huggingface, found 'hugging'; did you mean huggingface?"),
    "suite": ("kind: evaluate\ninputs: {model: a, dataset: b}\nsuite: [perplexty]\noutputs: {report: a}", "x.yaml:5: suite[0]: expected one of yuan, perplexity, gsm8k, gsm8k_en, humaneval, mathcloze, mathqa, requests, requests_learned, truthfulqa, truthfulqa_mc, found 'perplexty'; did you mean perplexity?"),
    "no suite": ("kind: evaluate\ninputs: {model: a, dataset: b}\nsuite: []\noutputs: {report: a}", "x.yaml:5: suite: is empty; expected at least one item"),
    "no benchmarks": ("kind: evaluate\ninputs: {model: a}\nsuite: [gsm8k]\noutputs: {report: a}", "x.yaml:4: inputs.data: missing; it is the folder or URL of the benchmarks' files (yuan evaluate --list)"),
    "no dataset": ("kind: evaluate\ninputs: {model: a}\nsuite: [perplexity]\noutputs: {report: a}", "x.yaml:4: inputs.dataset: missing; perplexity is measured on a dataset's validation part"),
    "equal samples": ("kind: evaluate\ninputs: {model: a, data: d}\nsuite: [gsm8k]\nevaluate: {samples: 4, temperature: 0}\noutputs: {report: a}", "x.yaml:6: evaluate.temperature: 0 gives 4 samples that are all the same; raise it, or set samples=1"),
    "tests for one": ("kind: evaluate\ninputs: {model: a, data: d}\nsuite: [gsm8k]\nevaluate: {unit_tests: 4}\noutputs: {report: a}", "x.yaml:6: evaluate.unit_tests: 4 sets choose among candidates, but samples is 1; raise samples"),
    "examples of none": ("kind: evaluate\ninputs: {model: a, data: d}\nsuite: [gsm8k]\nevaluate: {examples: {gsm8k: t}}\noutputs: {report: a}", "x.yaml:6: evaluate.few_shot: is 0, but examples are given; set how many stand before each question"),
    "sandbox": ("kind: evaluate\ninputs: {model: a, data: d}\nsuite: [gsm8k]\nevaluate: {sandbox: {memory_mib: 1}}\noutputs: {report: a}", "x.yaml:6: evaluate.sandbox.memory_mib: expected at least 64, found 1"),
    "suite twice": ("kind: evaluate\ninputs: {model: a, dataset: b}\nsuite: [perplexity, perplexity]\noutputs: {report: a}", "x.yaml:5: suite[1]: perplexity stands there twice"),
    "samples": ("kind: evaluate\ninputs: {model: a, dataset: b}\nsamples: 0\noutputs: {report: a}", "x.yaml:5: samples: expected at least 1, found 0"),
    "no steps": ("kind: pipeline\nsteps: {}", "x.yaml:4: steps: is empty; expected at least one step"),
    "steps left out": ("kind: pipeline", "x.yaml:1: steps: is empty; expected at least one step"),
    "unknown need": ("kind: pipeline\nsteps:\n  words: {manifest: tokenizer.yaml}\n  b: {manifest: b.yaml, needs: [word]}", "x.yaml:6: steps.b.needs[0]: 'word' is no step; expected one of words, b; did you mean words?"),
    "circle of needs": ("kind: pipeline\nsteps:\n  a: {manifest: a.yaml, needs: [c]}\n  b: {manifest: b.yaml, needs: [a]}\n  c: {manifest: c.yaml, needs: [b]}", "x.yaml:5: steps.a.needs: needs itself in turn: a -> c -> b -> a"),
    "step that needs itself": ("kind: pipeline\nsteps:\n  a: {manifest: a.yaml, needs: [a]}", "x.yaml:5: steps.a.needs: needs itself in turn: a -> a"),
    "name of a step": ("kind: pipeline\nsteps:\n  a.b: {manifest: a.yaml}", "x.yaml:5: steps.'a.b': expected a name of 1 to 63 of a-z 0-9 _ -, the first a letter or digit, not digits alone, found 'a.b'"),
    "step named as a key": ("kind: pipeline\nsteps:\n  topology: {manifest: a.yaml}", "x.yaml:5: steps.topology: a step cannot be called topology, which is a key of manifests; rename it"),
    "step without a manifest": ("kind: pipeline\nsteps:\n  a: {needs: []}", "x.yaml:5: steps.a.manifest: missing; it has no default; give text"),
    "key of a step": ("kind: pipeline\nsteps:\n  a: {manifest: a.yaml, override: {}}", "x.yaml:5: steps.a.override: unknown key; expected one of manifest, needs, overrides; did you mean steps.a.overrides?"),
    "steps as a list": ("kind: pipeline\nsteps: [a.yaml]", "x.yaml:4: steps: expected a section of `name: value`, found a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_KINDS.values(), ids=list(OTHER_KINDS))
def test_every_kind_has_its_rules(case: tuple[str, str], folder: Path) -> None:
    text, expected = case
    (folder / "x.yaml").write_text(f"version: 1\nname: x\n{text}\n")
    with pytest.raises(ManifestError) as error:
        load_job("x.yaml")
    assert line_of(error) == expected


CLUSTERS = {
    "job": ("cluster:", "kind: pretrain\ncluster:", "cluster.yaml:2: kind: this is a job (kind: pretrain), given as a cluster; a cluster manifest has no kind"),
    "unknown key": ("home: home", "homes: home", "cluster.yaml:3: cluster.homes: unknown key; expected one of home, registry, broker, broker_password_file, store, services, security, observability, lease_seconds, retention; did you mean cluster.home?"),
    "section of a job": ("cluster:", "optimizer: {lr: 1}\ncluster:", "cluster.yaml:2: optimizer: unknown key; expected one of version, cluster, topology"),
    "no version": ("version: 1\n", "", "cluster.yaml:1: version: missing; write `version: 1`"),
    "empty home": ("home: home", "home: ''", "cluster.yaml:3: cluster.home: is empty text"),
    "device": ("devices: 4", "device: gpu", "cluster.yaml:5: topology.nodes.device: expected one of auto, cpu, cuda, found 'gpu'; did you mean cpu?"),
    "no devices": ("devices: 4", "devices: 0", "cluster.yaml:5: topology.nodes.devices: expected at least 1, found 0"),
    "launcher": ("topology:", "topology:\n  launcher: slrm", "cluster.yaml:5: topology.launcher: expected one of local, hostfile, slurm, kubernetes, found 'slrm'; did you mean slurm?"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLUSTERS.values(), ids=list(CLUSTERS))
def test_a_wrong_cluster_is_one_line(case: tuple[str, str, str], replaced: Replace) -> None:
    old, new, expected = case
    replaced("cluster.yaml", old, new)
    with pytest.raises(ManifestError) as error:
        load_cluster("cluster.yaml")
    assert line_of(error) == expected


TLS = "certificate: a, key: b, authority: c"
STACKS = {
    "port out of range": ("services: {data: {port: 0}}", "services.data.port: expected 1 to 65535, found 0"),
    "port too large": ("services: {data: {port: 65536}}", "services.data.port: expected 1 to 65535, found 65536"),
    "a password for an embedded broker": ("broker_password_file: /x", "broker_password_file: an embedded broker makes its own; expected null"),
    "a metrics address that is none": ("services: {data: {metrics_bind: a b}}", "services.data.metrics_bind: expected the name or address of a host, found 'a b'"),
    "no port of metrics": ("services: {data: {metrics_port: -1}}", "services.data.metrics_port: expected 1 to 65535, found -1"),
    "two services on one port": ("services: {data: {port: 7102}}", "services.trainer.port: 7102 is cluster.services.data.port already; expected a port of its own"),
    "two names of one host": ("services: {data: {host: localhost, port: 7102}}", "services.trainer.port: 7102 is cluster.services.data.port already; expected a port of its own"),
    "metrics on a service's port": ("services: {trainer: {metrics_port: 7101}}", "services.trainer.metrics_port: 7101 is cluster.services.data.port already; expected a port of its own"),
    "no workers": ("services: {data: {workers: -1}}", "services.data.workers: expected at least 0, found -1"),
    "workers of the inference service": ("services: {inference: {workers: 2}}", "services.inference.workers: the inference service takes no jobs; expected 0, found 2"),
    "no host": ("services: {data: {host: ''}}", "services.data.host: expected the name or address of a host, found ''"),
    "host that is a URL": ("services: {data: {bind: 'tcp://0.0.0.0'}}", "services.data.bind: expected the name or address of a host, found 'tcp://0.0.0.0'"),
    "service that there is not": ("services: {date: {port: 1}}", "services.date: unknown key; expected one of data, trainer, converter, evaluator, inference, gateway; did you mean cluster.services.data?"),
    "broker": ("broker: valkey", "broker: expected embedded or a URL like redis://HOST:6379/0, found 'valkey'"),
    "broker of another kind": ("broker: 'amqp://me:secret@host'", "broker: expected embedded or a URL like redis://HOST:6379/0, found 'amqp://…@host'"),
    "no broker": ("broker: ''", "broker: is empty text"),
    "lease": ("lease_seconds: 2", "lease_seconds: expected at least 3, found 2"),
    "no token file": ("security: {token_file: ''}", "security.token_file: is empty text"),
    "half of TLS": ("security: {tls: {certificate: a}}", "security.tls.key: missing; it has no default; give text"),
    "client certificate without its key": (f"security: {{tls: {{{TLS}, client_certificate: d}}}}", "security.tls.client_key: missing; client_certificate stands for nothing without it"),
    "client key without its certificate": (f"security: {{tls: {{{TLS}, client_key: d}}}}", "security.tls.client_certificate: missing; client_key stands for nothing without it"),
    "no certificate": ("security: {tls: {certificate: '', key: b, authority: c}}", "security.tls.certificate: is empty text"),
    "SQLite for several hosts": ("services: {data: {host: one}}", "registry: SQLite does not do for services on several hosts (one, 127.0.0.1); expected postgresql+psycopg://…"),
    "embedded broker for several hosts": ("registry: postgresql+psycopg://db/yuan, services: {data: {host: one}}", "broker: an embedded broker does not do for services on several hosts (one, 127.0.0.1); expected redis://…"),
}  # fmt: skip


@pytest.mark.parametrize("case", STACKS.values(), ids=list(STACKS))
def test_a_wrong_stack_is_one_line(case: tuple[str, str], folder: Path) -> None:
    text, expected = case
    (folder / "stack.yaml").write_text(f"version: 1\ncluster: {{{text}}}\n")
    with pytest.raises(ManifestError) as error:
        load_cluster("stack.yaml")
    assert line_of(error).removeprefix("stack.yaml:2: cluster.").removeprefix("stack.yaml:1: cluster.") == expected


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("jbo.yaml", None, "jbo.yaml: no such file; did you mean job.yaml?"),
        ("job", None, "job: no such file; did you mean job.yaml?"),
        ("nowhere-near.yaml", None, "nowhere-near.yaml: no such file"),
        ("configs/jobs/a.yaml", None, "configs/jobs/a.yaml: no such file: there is no folder 'configs'"),
        (".", None, ".: is a folder; expected a manifest file"),
        ("x.yaml", b"version: 1\nname: \xff\n", "x.yaml:2: not UTF-8 at byte 17; save the file as UTF-8"),
        ("x.yaml", b"", "x.yaml:1: expected a manifest (lines of `key: value`, the first `version: 1`), found an empty file"),
        ("x.yaml", b"# nothing\n", "x.yaml:1: expected a manifest (lines of `key: value`, the first `version: 1`), found an empty file"),
        ("x.yaml", b"\njust words\n", "x.yaml:2: expected a manifest (lines of `key: value`, the first `version: 1`), found 'just words'"),
        ("x.yaml", b"[" * 5000, "x.yaml: nested too deeply"),
        ("x.yaml", b" " * (1 << 20) + b"\n", "x.yaml: is larger than 1 MiB, so it is not a manifest"),
        ("x.yaml", b"version: " + b"1" * 5000, f"x.yaml:1: version: '{'1' * 57}…' is no int"),
        ("cluster.yaml", None, "cluster.yaml:2: cluster: this is a cluster manifest, given as a job; give it with -f or YUAN_CLUSTER"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_job_is_one_line(path: str, content: bytes | None, expected: str, folder: Path) -> None:
    if content is not None:
        (folder / path).write_bytes(content)
    with pytest.raises(ManifestError) as error:
        load_job(path)
    assert line_of(error) == expected


def test_aliases_of_aliases_do_not_fill_the_memory(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (folder / "x.yaml").write_text("\n".join(lines))
    with pytest.raises(ManifestError, match="more than 10000 values, so it is not a manifest"):
        load_job("x.yaml")


def test_an_unreadable_file_is_one_line(folder: Path) -> None:
    (folder / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(ManifestError) as error:
        load_job("loop.yaml")
    assert line_of(error).startswith("loop.yaml: ")


PIPELINES = {
    "step's file": ("job.yaml", "jobs.yaml", [], "pipeline.yaml:6: steps.train.manifest: jobs.yaml: no such file; did you mean job.yaml?"),
    "folder as a step": ("job.yaml", ".", [], "pipeline.yaml:6: steps.train.manifest: .: is a folder; expected a manifest file"),
    "pipeline in a pipeline": ("job.yaml", "pipeline.yaml", [], "pipeline.yaml:6: steps.train.manifest: pipeline.yaml is a pipeline itself; a step is a single job"),
    "override in the file": ("steps: 10", "stepz: 10", [], f"pipeline.yaml:8: steps.train.overrides.train.stepz: unknown key; expected one of {TRAIN_KEYS}; did you mean steps.train.overrides.train.steps?"),
    "value in the file": ("steps: 10", "steps: 0", [], "pipeline.yaml:8: steps.train.overrides.train.steps: expected at least 1, found 0"),
    "override spelled out": ("", "", ["steps.train.overrides.train.steps=x"], "override: steps.train.overrides.train.steps: expected a whole number, found 'x'"),
    "short override": ("", "", ["train.train.stepz=3"], f"override: steps.train.overrides.train.stepz: unknown key; expected one of {TRAIN_KEYS}; did you mean steps.train.overrides.train.steps?"),
    "override of no step": ("", "", ["trian.train.steps=3"], "override: trian: unknown key; expected one of version, kind, name, topology, scheduling, steps"),
    "cluster for a step": ("", "", ["train.cluster.home=x"], "override: steps.train.overrides.cluster: stands in a cluster manifest, never in a job; give the cluster's file with -f or YUAN_CLUSTER"),
    "topology": ("", "", ["topology.parallel.stages=[2,3]"], "override: topology.parallel.stages: [2, 3] sum to 5, but model.num_hidden_layers is 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", PIPELINES.values(), ids=list(PIPELINES))
def test_a_wrong_step_is_one_line(case: tuple[str, str, list[str], str], replaced: Replace) -> None:
    old, new, overrides, expected = case
    replaced("pipeline.yaml", old, new)
    with pytest.raises(ManifestError) as error:
        load_pipeline("pipeline.yaml", overrides, load_cluster("cluster.yaml"))
    assert line_of(error) == expected


def test_an_error_inside_a_step_names_the_steps_own_file(replaced: Replace) -> None:
    replaced("tokenizer.yaml", "outputs:", "output:")
    with pytest.raises(ManifestError) as error:
        load_pipeline("pipeline.yaml")
    assert line_of(error).startswith("tokenizer.yaml:5: output: unknown key; ")


def test_a_single_job_is_no_pipeline(folder: Path) -> None:
    with pytest.raises(ManifestError) as error:
        load_pipeline("job.yaml")
    assert line_of(error) == "job.yaml:3: kind: expected pipeline, found pretrain"


def test_the_error_carries_where_it_is_for_programs(replaced: Replace) -> None:
    replaced("job.yaml", "steps: 20", "steps: x")
    with pytest.raises(ManifestError) as error:
        load_job("job.yaml")
    assert error.value.key == "train.steps"
    assert error.value.origin is not None
    assert (error.value.origin.file, error.value.origin.line) == ("job.yaml", 8)


def test_only_training_is_checked_against_the_topology(folder: Path) -> None:
    cluster = load_cluster("cluster.yaml", ["topology.parallel.pipeline=9"])
    job = load_job("tokenizer.yaml", cluster=cluster)
    assert resolve_topology(job, cluster).parallel.pipeline == 9
