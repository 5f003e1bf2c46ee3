"""How the learning rate changes with the steps, and a moving average of the weights."""

import math

import torch
from torch import nn

from humr.config import Training


def rate_factor(step: int, config: Training) -> float:
    """Share of the learning rate at a step: warm-up; then constant, halved, or half a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.halve_at is not None and step >= config.halve_at * config.steps:
        warm /= 2
    if not config.cosine:
        return warm
    done = max(0, step - config.warmup) / max(1, config.steps - config.warmup)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Average:
    """Exponential moving average of the parameters (decay 0: the parameters themselves)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the current parameters; early steps forget faster."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        mine = list(self.values.values())
        torch._foreach_lerp_(mine, [p.detach() for p in model.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange averages and parameters."""
        for name, parameter in model.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)
