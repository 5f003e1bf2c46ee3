"""Tests of benchmarks.timing.

A measurement is of a whole process, so each is done in one of its own.
"""

import json
import subprocess
import sys

import pytest

from humr.files import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot reset")
MEASURE = """
import gc, json, sys
import torch
from humr.benchmarks import timing

device = sys.argv[1]

def task(megabytes):
    return torch.ones(megabytes, 2**18, device=device).sum().item()

def plant():
    garbage = [torch.ones(80, 2**18, device=device)]
    garbage.append(garbage)  # only the garbage collector finds out that nobody wants it

def measured(work):
    return timing.peak_memory(work, device=device)

task(1)  # whatever the first task alone brings along
found = {"large": measured(lambda: task(200)), "small": measured(lambda: task(40))}
found["in turn"] = measured(lambda: [task(40) for _ in range(4)])
plant()
found["after garbage"] = measured(lambda: (gc.collect(), task(40)))
timing._forget = lambda: False
held = int(timing._highest() - timing._status("VmRSS"))  # what a new record takes
found["no record"] = measured(lambda: task(max(held - 40, 1)))
found["record"] = measured(lambda: task(held + 60))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(device):
    command = [sys.executable, "-c", MEASURE, device.type]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_counts_what_a_task_held_and_forgets_earlier_peaks(found):
    assert found["large"] == pytest.approx(200, abs=15)
    assert found["small"] == pytest.approx(40, abs=15)


def test_memory_that_is_freed_in_between_counts_once(found):
    assert found["in turn"] == pytest.approx(40, abs=15)


def test_garbage_that_is_collected_in_the_task_hides_nothing(found):
    assert found["after garbage"] == pytest.approx(40, abs=15)


def test_without_a_reset_only_a_new_record_shows(found, device):
    if device.type == "cuda":
        pytest.skip("a GPU's memory is counted by torch, which can always reset it")
    assert found["no record"] == 0
    assert found["record"] == pytest.approx(60, abs=15)
