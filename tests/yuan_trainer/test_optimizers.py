"""Which parameters an optimizer changes, by what, and how it is taken up again."""

from dataclasses import replace

import pytest
import torch

from yuan_checkpoint.training_state import finished_states
from yuan_manifest.schema import OptimizerSection
from yuan_model import Yuan, initialize_
from yuan_trainer.optimizers import MuonWithAdamW, make_optimizer
from yuan_trainer.specification import Specification

from .conftest import Runner
from .oracle import oracle_losses

MUON = OptimizerSection(name="muon", lr=5e-3, min_lr=5e-4, warmup_steps=5)


def test_norms_and_biases_are_not_decayed_and_frozen_parameters_are_left_out(specification: Specification) -> None:
    model = Yuan(specification.model)
    model.model.embed_tokens.weight.requires_grad_(False)
    optimizer = make_optimizer(model.named_parameters(), OptimizerSection(lr=1e-3, weight_decay=0.1))
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in model.parameters():
        expected = None if not parameter.requires_grad else 0.1 if parameter.dim() > 1 else 0.0
        assert decays.get(id(parameter)) == expected


def test_muon_takes_the_matrices_of_blocks_and_nothing_else(specification: Specification) -> None:
    model = Yuan(specification.model)
    optimizer = make_optimizer(model.named_parameters(), MUON)
    assert isinstance(optimizer, MuonWithAdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon = {names[id(parameter)].rsplit(".", 2)[-2] for parameter in optimizer.param_groups[0]["params"]}
    assert muon == {"qk_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"}
    taken = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(taken) == sorted(names)


def test_muon_steps_as_torchs_own_does(specification: Specification) -> None:
    model, alone = Yuan(specification.model), Yuan(specification.model)
    for each in (model, alone):
        initialize_(each, specification.model, 1)
    ours = make_optimizer(model.named_parameters(), MUON)
    theirs = torch.optim.Muon(
        [p for n, p in alone.named_parameters() if p.dim() == 2 and "embed" not in n],
        lr=MUON.lr,
        weight_decay=MUON.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    for seed in (3, 4):
        for each in (model, alone):
            torch.manual_seed(seed)
            for parameter in each.parameters():
                parameter.grad = torch.randn_like(parameter)
        ours.step()
        theirs.step()
    matrices = [name for name, p in alone.named_parameters() if p.dim() == 2 and "embed" not in name]
    assert all(torch.equal(model.get_parameter(name), alone.get_parameter(name)) for name in matrices)


@pytest.mark.slow
def test_a_run_with_muon_trains_as_the_oracle_and_resumes_bit_for_bit(
    specification: Specification, run: Runner
) -> None:
    specification = replace(specification, optimizer=MUON, zero_stage=0)
    expected = oracle_losses(specification, 20)
    whole = run(specification, checkpoint_steps=10)
    assert list(whole.values()) == pytest.approx(expected, abs=1e-4)
    assert expected[-1] < expected[0] - 0.2
    after = run(specification, resume_from=finished_states(specification.state_root)[0])
    assert after == {step: loss for step, loss in whole.items() if step > 10}
