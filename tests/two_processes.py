"""Trains tiny networks in two processes; `test_ranks` runs it and looks at what it leaves.

Usage: two_processes.py FOLDER. The engine starts this file once more, for the second process.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from humr import devices, training
from humr.config import Training

CONFIG = Training(steps=12, batch=8, rate=0.05, decay=0.0, validate_every=4, average=0.5)


class Line(nn.Module):
    """Fits y = 2x + 1, with a hidden layer that may drop out."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(1, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 1)
        )

    def forward(self, batch, *, generator):
        return {"square": (self.model(batch) - (2 * batch + 1)).square().mean()}

    def total(self, terms):
        return terms["square"]


def draw(generator):
    return torch.rand(CONFIG.batch, 1, generator=generator)


def validate(model):
    with torch.no_grad():
        return {"score": (model(torch.ones(1, 1)) - 3).abs().item()}


class Stop:
    """Draws until a step."""

    def __init__(self, last):
        self.left = last

    def __call__(self, generator):
        self.left -= 1
        if self.left < 0:
            raise InterruptedError
        return draw(generator)


def fit(folder, fabric, line, source=draw):
    training.fit(line, source, validate, CONFIG, folder, fabric=fabric, about={})
    return line


def main(folder):
    torch.set_num_threads(1)
    fabric = devices.make_fabric(CONFIG, device="cpu", devices=2)
    line = fit(folder / "plain", fabric, Line())
    torch.save(line.state_dict(), folder / f"plain-{fabric.global_rank}.pt")
    straight = fit(folder / "straight", fabric, Line(0.5))
    try:
        fit(folder / "broken", fabric, Line(0.5), Stop(6))
    except InterruptedError:
        resumed = fit(folder / "broken", fabric, Line(0.5))
        states = [m.state_dict() for m in (straight, resumed)]
        torch.save(states, folder / f"resumed-{fabric.global_rank}.pt")
    fabric.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
