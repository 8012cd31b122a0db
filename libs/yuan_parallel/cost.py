"""Floating-point operations of the network's parts, counted exactly from its shapes (a multiply-add is two).

Forward pass only; the backward pass of a matrix product costs twice its forward pass everywhere, so ratios between
parts are the same for a training step.
"""

from yuan_model import YuanConfig


def layer_flops_per_token(config: YuanConfig, sequence_length: int) -> float:
    """Returns the forward FLOPs of one transformer layer for one token of a causal sequence.

    Projections: V, Q and K, output (4 H^2 weights); localized filtering: two convolutions of kernel 2 (2 H^2);
    SwiGLU: 3 H F; attention: scores and weighted sum over on average half the sequence.
    """
    hidden = config.hidden_size
    weights = 4 * hidden**2 + 3 * hidden * config.intermediate_size
    if config.localized_filtering:
        weights += 2 * hidden**2
    attention = 2 * hidden * (sequence_length + 1) / 2
    return 2.0 * (weights + attention)


def logits_flops_per_token(config: YuanConfig) -> float:
    """Returns the forward FLOPs of the logits for one token (H x V weights)."""
    return 2.0 * config.hidden_size * config.vocab_size
