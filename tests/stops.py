"""Stops work at each write of a file, as a kill would, to see that the next start repairs all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def at_each_write(work: Callable[[], object]) -> Iterator[int]:
    """Stop `work` before and after its first write, then its second, until it comes to its end.

    The caller clears the place between, runs the work again and compares.
    """
    replace = Path.replace
    for stop in range(1_000):
        moment = iter(range(stop))

        def stopping(self: Path, target: Path, moment: Iterator[int] = moment) -> Path:
            if next(moment, None) is None:
                raise Killed
            done = replace(self, target)
            if next(moment, None) is None:
                raise Killed
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", stopping)
            try:
                work()
            except Killed:
                pass
            else:
                return
        yield stop
