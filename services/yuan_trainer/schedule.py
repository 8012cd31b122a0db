"""The learning rate of a step: linear warm-up, then decay to the minimum at the last step; perhaps over and over."""

import math

from yuan_manifest.schema import Decay, OptimizerSection


def learning_rate(step: int, steps: int, optimizer: OptimizerSection) -> float:
    """Returns the learning rate of a step.

    Args:
        step: the optimizer step, the first is 1. It depends on nothing else, so a resumed run has the same rates.
        steps: the last step.
        optimizer: peak, minimum, warm-up, shape, and after how many steps all that begins anew.
    """
    if (period := optimizer.restart_steps) > 0:
        begun = (step - 1) // period * period
        step, steps = step - begun, min(period, steps - begun)
    warmup = optimizer.warmup_steps
    if step <= warmup:
        return optimizer.lr * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    span = optimizer.lr - optimizer.min_lr
    if optimizer.decay == Decay.cosine:
        return optimizer.min_lr + span * 0.5 * (1.0 + math.cos(math.pi * progress))
    if optimizer.decay == Decay.linear:
        return optimizer.min_lr + span * (1.0 - progress)
    return optimizer.lr
