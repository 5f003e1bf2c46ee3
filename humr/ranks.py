"""One process or several: the engine, and the random numbers of every process.

Several processes train one model (DistributedDataParallel). Each draws batches of its own, and the
gradient is the mean over processes: a step sees `Training.batch` times as many images. Only the
first process writes files, validates and shows bars.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from humr.config import Training
from humr.devices import pick_device

LONGEST = timedelta(
    days=2
)  # for which processes wait: the first one makes worlds, or waits itself


def make_fabric(
    config: Training, *, device: str = "auto", devices: int = 1, nodes: int = 1
) -> Fabric:
    """Return the engine; with several devices, start the other processes of this machine.

    The others run the same command from its beginning and join here. With several machines the
    command is given on each, with `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK` in the environment
    (or by `torchrun` or SLURM), and they share the folder of the run.

    Args:
        config: its precision.
        device: "cpu", "cuda", or "auto" for `devices.pick_device`.
        devices: on each machine; one process for each.
        nodes: machines.
    """
    if devices < 1 or nodes < 1:
        raise ValueError(f"devices and nodes must be positive; got {devices} and {nodes}")
    accelerator = pick_device().type if device == "auto" else device
    options: Any = {"accelerator": accelerator, "devices": devices, "precision": config.precision}
    if devices * nodes == 1:
        return Fabric(**options)
    unchanged: Any = {_buffers_option(): False}  # buffers are the same everywhere and stay so
    strategy = DDPStrategy(timeout=LONGEST, **unchanged)
    fabric = Fabric(**options, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def _buffers_option() -> str:
    """Name of the option that sends buffers before every step: newer versions of torch rename."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"


def alone(path: Path, fabric: Fabric) -> AbstractContextManager[object]:
    """Let no other run do the same: the first process of a run holds a lock."""
    return FileLock(path) if fabric.is_global_zero else nullcontext()


def seed_of(seed: int, rank: int) -> int:
    """Seed of a process: the first one's is the run's own."""
    if rank == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, fabric: Fabric) -> torch.Generator:
    """Return the generator of this process; other than the first also get a dropout of their own.

    The networks must be made by then: they start from the same numbers everywhere.
    """
    own = seed_of(seed, fabric.global_rank)
    if fabric.global_rank:
        torch.manual_seed(own)
    return torch.Generator().manual_seed(own)


def noise_of(fabric: Fabric, generator: torch.Generator) -> torch.Generator:
    """Return the generator of the noise inside a step, on the device that reads it.

    On CUDA it is the device's own, which dropout takes too and `random_states` keeps: noise from
    the CPU would be drawn slowly, and every copy of it waited for.
    """
    device = fabric.device
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else generator


def random_states(fabric: Fabric, generator: torch.Generator) -> dict[str, Any]:
    """States of all random numbers: those of the first process, and under "ranks" the others'."""
    device = fabric.device
    own = {
        "generator": generator.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    if fabric.world_size == 1:
        return own
    states: list[Any] = [None] * fabric.world_size
    distributed.all_gather_object(states, own)
    return {**states[0], "ranks": states[1:]}


def restore_states(state: dict[str, Any], fabric: Fabric, generator: torch.Generator) -> None:
    """Bring back what `random_states` returned."""
    others = state.get("ranks", [])
    if len(others) + 1 != fabric.world_size:
        raise ValueError(
            f"{len(others) + 1} processes wrote it, {fabric.world_size} read it: random numbers "
            "would not be the same"
        )
    own = others[fabric.global_rank - 1] if fabric.global_rank else state
    generator.set_state(own["generator"])
    torch.set_rng_state(own["dropout"])
    if fabric.device.type == "cuda" and own["dropout_cuda"] is not None:
        torch.cuda.set_rng_state(own["dropout_cuda"], fabric.device)
