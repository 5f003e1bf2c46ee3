"""Where and how exactly things are computed: devices, processes, precision, faster kernels."""

import inspect
import os
import timeit
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from humr.config import Training

P = ParamSpec("P")
T = TypeVar("T")
# How long processes wait for the first one, which makes worlds, or waits itself.
LONGEST = timedelta(days=2)


def pick_device() -> torch.device:
    """Return where to train and to evaluate: HUMR_DEVICE, else a CUDA device if there is one."""
    chosen = os.environ.get("HUMR_DEVICE") or "auto"
    if chosen not in ("auto", "cpu", "cuda"):
        raise ValueError(f"HUMR_DEVICE must be cpu, cuda or auto; got {chosen!r}")
    there = torch.cuda.is_available()
    if chosen == "cuda" and not there:
        raise ValueError(
            "HUMR_DEVICE is cuda, and torch finds no CUDA device. Usual cause: a CPU build of "
            "torch, or a driver that is too old; with HUMR_DEVICE=cpu it goes on without"
        )
    return torch.device("cpu" if chosen == "cpu" or not there else "cuda")


@cache
def constant(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, " numbers"]:
    """Return whole numbers, indices for example, as a tensor that a device keeps: copied once."""
    with torch.inference_mode(mode=False):  # an inference tensor could not serve in training later
        return torch.tensor(numbers, device=device)


def normal(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None
) -> Float[Tensor, "..."]:
    """Draw standard normal noise where the generator is; device and type become those of `like`.

    So a seed gives the same numbers wherever the model is.
    """
    device = like.device if generator is None else generator.device
    drawn = torch.randn(*shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of tensors compute in single precision or better, under autocast too.

    Networks may multiply in bfloat16, geometry may not: that moves joints by millimetres. What
    comes from a network in half precision is widened.
    """

    @wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> T:
        given, call = (*args, *kwargs.values()), cast("Any", function)
        device = next(value.device for value in given if isinstance(value, Tensor))
        wide = map(_widened, args)
        named = {name: _widened(value) for name, value in kwargs.items()}
        with torch.autocast(device.type, enabled=False):
            return call(*wide, **named)

    return precise


def _widened(value: Any) -> Any:  # noqa: ANN401
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value


# ------------------------------------------------------------------------ processes

# Several processes train one model (DistributedDataParallel). Each draws batches of its own, and
# the gradient is the mean over processes: a step sees `Training.batch` times as many images. Only
# the first process writes files, validates and shows bars.


def make_fabric(
    config: Training, *, device: str = "auto", devices: int = 1, nodes: int = 1
) -> Fabric:
    """Return the engine; with several devices, start the other processes of this machine.

    The others run the same command from its beginning and join here. With several machines the
    command is given on each, with `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK` in the environment
    (or by `torchrun` or SLURM), and they share the folder of the run.

    Args:
        config: its precision.
        device: "cpu", "cuda", or "auto" for `pick_device`.
        devices: on each machine; one process for each.
        nodes: machines.
    """
    if devices < 1 or nodes < 1:
        raise ValueError(f"devices and nodes must be positive; got {devices} and {nodes}")
    accelerator = pick_device().type if device == "auto" else device
    options: Any = {"accelerator": accelerator, "devices": devices, "precision": config.precision}
    if devices * nodes == 1:
        return Fabric(**options)
    # Buffers are the same everywhere and stay so. Newer versions of torch rename the option.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    new, old = "forward_sync_buffers", "broadcast_buffers"
    unchanged: Any = {new if new in known else old: False}
    strategy = DDPStrategy(timeout=LONGEST, **unchanged)
    fabric = Fabric(**options, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    return fabric


def run_lock(path: Path, fabric: Fabric) -> AbstractContextManager[object]:
    """Let no other run do the same: the first process of a run holds a lock."""
    return FileLock(path) if fabric.is_global_zero else nullcontext()


def seed_of(seed: int, rank: int) -> int:
    """Seed of a process: the first one's is the run's own."""
    if rank == 0:
        return seed
    return int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0] >> 1)


def batch_generator(seed: int, fabric: Fabric) -> torch.Generator:
    """Return the generator of this process; other than the first also get a dropout of their own.

    The networks must be made by then: they start from the same numbers everywhere.
    """
    own = seed_of(seed, fabric.global_rank)
    if fabric.global_rank:
        torch.manual_seed(own)
    return torch.Generator().manual_seed(own)


def noise_generator(fabric: Fabric, generator: torch.Generator) -> torch.Generator:
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


# ------------------------------------------------------------------------ faster kernels

# Switches for faster ways to the same numbers, all off by default:
#
# - `products`: float32 matrix products of oneDNN instead of MKL's, which leaves the wide registers
#   of AMD's processors unused: about twice as fast there. One flag of torch leads to them. On
#   processors with matrix units (AMX) that flag rounds to bfloat16, and it can slow other products
#   down: it is set only where a test of itself finds full precision and more speed.
# - `tf32`: matrix products of CUDA devices with 10 bits of mantissa (relative error 1e-3).
# - `compiled`: the couplings of a flow through `torch.compile`, which takes a minute or two first.
# - `graphs`: the same, replayed as CUDA graphs, for devices that wait for many small launches.
#
# A switch that this machine does not have, or that fails, costs one warning and nothing else.
SWITCHES = ("products", "tf32", "compiled", "graphs")
EXACT = 1e-5  # relative error of a float32 product: sums of a thousand terms reach 1e-6
FASTER = 1.1  # times; below this the other products are not worth a global flag
_ONEDNN: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def faster(
    switches: Iterable[str], device: torch.device | str = "cpu", flow: nn.Module | None = None
) -> Iterator[list[str]]:
    """Turn some of `SWITCHES` on for the code inside; yields a list of those that are really on.

    What fails later leaves the list, and `graphs` is `compiled` on a CPU. Make no CUDA engine
    (Fabric) inside `tf32`: torch then refuses to give the flag in its old way. `flow` is the flow
    whose couplings `compiled` and `graphs` are about.
    """
    chosen, kind = tuple(dict.fromkeys(switches)), torch.device(device).type
    if unknown := [name for name in chosen if name not in SWITCHES]:
        raise ValueError(f"no switch {', '.join(unknown)}; expected some of {', '.join(SWITCHES)}")
    if {"compiled", "graphs"} <= set(chosen):
        raise ValueError("graphs are compiled already: choose either of compiled and graphs")
    on: list[str] = []
    with ExitStack() as stack:
        for switch in chosen:
            match switch:
                case "products" if not other_products_pay():
                    _warn("products: no full precision or no gain on this processor; left off")
                case "tf32" if kind != "cuda":
                    _warn(f"tf32 is for CUDA devices; this is {kind}, and full precision is used")
                case "products":
                    stack.enter_context(_flag(_ONEDNN, "bf16"))
                    on.append(switch)
                case "tf32":
                    stack.enter_context(_flag(torch.backends.cuda.matmul, "tf32"))
                    on.append(switch)
                case _:
                    name = "graphs" if switch == "graphs" and kind == "cuda" else "compiled"
                    stack.enter_context(_compiled(flow, name, failed=partial(on.remove, name)))
                    on.append(name)
        yield on


@contextmanager
def _compiled(flow: nn.Module | None, name: str, failed: Callable[[], None]) -> Iterator[None]:
    if flow is None or not hasattr(flow, "_transform"):
        raise ValueError("compiled and graphs are about a flow; got none")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute")  # torch, of tensors it traces
        compile_couplings(flow, graphs=name == "graphs", failed=failed)
        try:
            yield
        finally:
            vars(flow).pop("_transform", None)


@contextmanager
def _flag(backend: Any, value: str) -> Iterator[None]:  # noqa: ANN401 - a module of torch
    before = backend.fp32_precision
    backend.fp32_precision = value
    try:
        yield
    finally:
        backend.fp32_precision = before


@cache
def other_products_pay(repeats: int = 5) -> bool:
    """Say whether oneDNN's products are exact in float32 and faster, here and now (asked once)."""
    if not torch.backends.mkldnn.is_available():
        return False
    images, width = 64, 1024
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(images, width, generator=generator)
    b = torch.randn(width, width, generator=generator)
    truth = a.double() @ b.double()
    usual = _seconds(lambda: a @ b, repeats)
    with _flag(_ONEDNN, "bf16"):
        error = ((a @ b - truth).norm() / truth.norm()).item()
        other = _seconds(lambda: a @ b, repeats)
    return error < EXACT and usual > FASTER * other


def _seconds(run: Callable[[], Tensor], repeats: int) -> float:
    """Shortest time of a product."""
    return min(timeit.repeat(run, number=1, repeat=repeats))


class Compiled:
    """A function in compiled form; where compiling fails, one warning, and as it is."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        backend: str | Callable[..., Any] = "inductor",
        failed: Callable[[], None] = lambda: None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.function, self.failed = function, failed
        self.fast: Callable[..., Any] | None = torch.compile(function, backend=backend, **options)

    def __call__(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        """Call the compiled form, as long as there is one."""
        if self.fast is not None:
            try:
                return self.fast(*arguments, **named)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, OSError, ImportError) as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                _warn(f"torch.compile failed, going on without it: {reason[0]}")
                self.fast = None
                self.failed()
        return self.function(*arguments, **named)


def compile_couplings(
    flow: nn.Module, *, graphs: bool = False, failed: Callable[[], None] = lambda: None
) -> None:
    """Compile what a flow does between noise and data.

    `failed` is called where the first use shows that compiling does not work.
    """
    options: Any = {"mode": "reduce-overhead"} if graphs else {}
    couplings: Any = flow._transform
    vars(flow)["_transform"] = Compiled(couplings, failed=failed, **options)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
