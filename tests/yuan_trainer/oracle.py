"""The oracle: what training means, in one plain-torch loop on one process, without DeepSpeed, stages or ranks."""

from unittest import mock

import torch
from torch import Tensor

from yuan_model import Yuan, cross_entropy, initialize_
from yuan_model.native import training
from yuan_trainer.batches import step_batches
from yuan_trainer.optimizers import make_optimizer
from yuan_trainer.samples import open_samples
from yuan_trainer.schedule import learning_rate
from yuan_trainer.specification import Specification


def oracle_losses(specification: Specification, steps: int) -> list[float]:
    """Returns the training loss of each of the first steps, fp32."""
    with mock.patch.object(training, "usable", return_value=False):  # torch's operations alone
        return _losses(specification, steps)


def _losses(specification: Specification, steps: int) -> list[float]:
    train = specification.train
    model = Yuan(specification.model)
    initialize_(model, specification.model, train.seed)
    optimizer = make_optimizer(model.named_parameters(), specification.optimizer)
    samples = open_samples(specification).training
    losses: list[float] = []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, train.steps, specification.optimizer)
        optimizer.zero_grad()
        total = 0.0
        for inputs, (labels, mask) in step_batches(
            samples,
            step,
            micro_batches=range(specification.micro_batches),
            micro_batch_size=train.micro_batch_size,
            global_batch_size=train.global_batch_size,
            eod=specification.eod_token_id if train.eod_mask_loss else None,
        ):
            positions = positions_in_documents(inputs, specification) if specification.data.reset_position_ids else None
            logits = model(inputs, position_ids=positions)
            loss = cross_entropy(logits, labels, mask) / specification.micro_batches
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), specification.optimizer.clip_grad)
        optimizer.step()
        losses.append(total)
    return losses


def positions_in_documents(inputs: Tensor, specification: Specification) -> Tensor:
    """Returns the position of each token in its document, [b, s], counted one by one."""
    rows: list[list[int]] = []
    for tokens in inputs.tolist():
        row, position = [], 0
        for token in tokens:
            row.append(position)
            position = 0 if token == specification.eod_token_id else position + 1
        rows.append(row)
    return torch.tensor(rows)
