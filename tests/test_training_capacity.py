import pytest
import torch

from humr import training
from humr.training import explain_oom, largest_fitting


def allocates(limit):
    """A work that needs `size` units of memory where there are `limit`."""

    def work(size):
        if size > limit:
            raise torch.OutOfMemoryError(f"Tried to allocate {size} units\nlong statistics")
        return size

    return work


@pytest.mark.parametrize(("limit", "expected"), [(40, 32), (32, 32), (31, 16), (1, 1), (0, 0)])
def test_halves_until_it_fits(limit, expected):
    assert largest_fitting(64, allocates(limit)) == expected


def test_work_that_fits_is_returned_and_nothing_else_is_tried():
    tried = []
    assert explain_oom(lambda: 7, what="images", size=64, attempt=tried.append) == 7
    assert not tried


def test_the_error_names_the_size_that_fits():
    work = allocates(20)
    with pytest.raises(
        MemoryError, match=r"for 64 images \(training.batch\); 16 fit \(Tried"
    ) as e:
        explain_oom(lambda: work(64), what="images (training.batch)", size=64, attempt=work)
    assert "statistics" not in str(e.value)


def test_says_if_nothing_fits():
    work = allocates(0)
    with pytest.raises(MemoryError, match="not even 1 fits"):
        explain_oom(lambda: work(8), what="images", size=8, attempt=work)


def test_other_errors_pass_unchanged():
    def wrong(size):
        raise ValueError(f"shape {size}")

    with pytest.raises(ValueError, match="shape 4"):
        explain_oom(lambda: wrong(4), what="images", size=4, attempt=wrong)

    def broken(size):
        raise RuntimeError("device-side assert")

    with pytest.raises(RuntimeError, match="assert"):
        explain_oom(lambda: allocates(1)(4), what="images", size=4, attempt=broken)


def test_what_a_processor_says_when_its_memory_is_too_small():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert training.is_memory_error(caught.value)
    assert training.is_memory_error(MemoryError())
    assert not training.is_memory_error(RuntimeError("shapes differ"))
