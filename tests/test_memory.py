import pytest
import torch

from humr import memory


def work(megabytes):
    return lambda: torch.ones(megabytes, 2**18).sum()


def least(task, **options):
    """The smallest of three measurements: the system may take pages away and bring them back."""
    return min(memory.peak_memory(task, **options) for _ in range(3))


def test_counts_what_a_task_held_and_forgets_earlier_peaks(device):
    def task(megabytes):
        return lambda: torch.ones(megabytes, 2**18, device=device).sum()

    large = least(task(200), device=device)
    small = least(task(40), device=device)
    assert large == pytest.approx(200, abs=15)
    assert small == pytest.approx(40, abs=15)


def test_memory_that_is_freed_in_between_counts_once():
    assert least(lambda: [work(40)() for _ in range(4)]) == pytest.approx(40, abs=15)


def test_without_a_reset_only_a_new_record_shows(monkeypatch):
    monkeypatch.setattr(memory, "_forget", lambda: False)
    memory.peak_memory(work(60))
    assert memory.peak_memory(work(20)) == pytest.approx(0, abs=5)
