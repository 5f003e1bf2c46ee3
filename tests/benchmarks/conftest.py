import pytest

from humr.benchmarks import people


@pytest.fixture
def few(monkeypatch):
    """Two photographs instead of eight."""
    monkeypatch.setattr(people, "PHOTOS", 2)
