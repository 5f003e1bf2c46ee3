"""Faster ways to the same numbers: switches, all off by default, each with a way back.

- `products`: float32 matrix products of oneDNN instead of MKL's, which leaves the wide registers
  of AMD's processors unused: about twice as fast there. torch has one flag that leads to them. On
  processors with matrix units (AMX) the same flag rounds to bfloat16, and it can slow other
  products down: it is set only where a test of itself finds full precision and more speed.
- `tf32`: matrix products of CUDA devices with 10 bits of mantissa (relative error 1e-3).
- `compiled`: the couplings of a flow through `torch.compile`, which takes a minute or two first.
- `graphs`: the same, and replayed as CUDA graphs, for devices that wait for many small launches.

A switch that this machine does not have, or that fails, costs one warning and nothing else.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

SWITCHES = ("products", "tf32", "compiled", "graphs")
EXACT = 1e-5  # relative error of a float32 product: sums of a thousand terms reach 1e-6
FASTER = 1.1  # times; below this the other products are not worth a global flag
_ONEDNN: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
_SHAPE = (64, 1024, 1024)  # of the product that is tested: images, width, width


@contextmanager
def faster(
    switches: Iterable[str], device: torch.device | str = "cpu", flow: nn.Module | None = None
) -> Iterator[list[str]]:
    """Turn switches on for the code inside; yields those that are on in truth.

    The list follows: what fails later leaves it, and `graphs` is `compiled` on a CPU. Make no CUDA
    engine (Fabric) inside `tf32`: torch refuses to be asked for the flag in its old way there.

    Args:
        switches: some of `SWITCHES`.
        device: where the work is done.
        flow: whose couplings `compiled` and `graphs` are about.
    """
    chosen, kind = _checked(switches), torch.device(device).type
    on: list[str] = []
    with ExitStack() as stack:
        for switch in chosen:
            match switch:
                case "products" | "tf32":
                    if _products(stack) if switch == "products" else _tf32(stack, kind):
                        on.append(switch)
                case _:
                    name = "graphs" if switch == "graphs" and kind == "cuda" else "compiled"
                    _compile(stack, flow, graphs=name == "graphs", failed=partial(on.remove, name))
                    on.append(name)
        yield on


def _checked(switches: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(switches))
    if unknown := [name for name in chosen if name not in SWITCHES]:
        raise ValueError(f"no switch {', '.join(unknown)}; expected some of {', '.join(SWITCHES)}")
    if {"compiled", "graphs"} <= set(chosen):
        raise ValueError("graphs are compiled already: choose either of compiled and graphs")
    return chosen


# ------------------------------------------------------------------------ products


def _products(stack: ExitStack) -> bool:
    if not other_products_pay():
        _warn("products: no full precision or no gain on this processor; the usual ones are used")
        return False
    stack.enter_context(_flag(_ONEDNN, "bf16"))
    return True


def _tf32(stack: ExitStack, kind: str) -> bool:
    if kind != "cuda":
        _warn(f"tf32 is for CUDA devices; this is {kind}, and full precision is used")
        return False
    stack.enter_context(_flag(torch.backends.cuda.matmul, "tf32"))
    return True


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
    rows, inner, columns = _SHAPE
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, inner, generator=generator)
    b = torch.randn(inner, columns, generator=generator)
    truth = a.double() @ b.double()
    usual = _seconds(lambda: a @ b, repeats)
    with _flag(_ONEDNN, "bf16"):
        error = ((a @ b - truth).norm() / truth.norm()).item()
        other = _seconds(lambda: a @ b, repeats)
    return error < EXACT and usual > FASTER * other


def _seconds(run: Callable[[], Tensor], repeats: int) -> float:
    """Shortest time of a product."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


# ------------------------------------------------------------------------ compiling


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
    """Compile what a flow does between noise and data; `uncompile` takes it back.

    `failed` is called where the first use shows that compiling does not work.
    """
    options: Any = {"mode": "reduce-overhead"} if graphs else {}
    couplings: Any = flow._transform
    flow.__dict__["_transform"] = Compiled(couplings, failed=failed, **options)


def uncompile(flow: nn.Module) -> None:
    """Undo `compile_couplings`."""
    flow.__dict__.pop("_transform", None)


def _compile(
    stack: ExitStack, flow: nn.Module | None, *, graphs: bool, failed: Callable[[], None]
) -> None:
    if flow is None or not hasattr(flow, "_transform"):
        raise ValueError("compiled and graphs are about a flow; got none")
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "The .grad attribute")  # torch, of tensors that it traces
    compile_couplings(flow, graphs=graphs, failed=failed)
    stack.callback(uncompile, flow)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
