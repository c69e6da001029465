"""A process that keeps what it frees does not ask for it again."""

import resource
import subprocess
import sys

import pytest

from ebbflow.trainers.freed_memory import keep_freed_memory

COUNT = """
import resource, sys, torch
from ebbflow.trainers.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    return [torch.ones(400_000) for _ in range(4)]
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    call = [sys.executable, "-c", COUNT, how]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="needs glibc")
def test_memory_is_not_asked_for_again():
    pages = 20 * 4 * 400_000 * 4 // resource.getpagesize()
    assert faults("keep") < 0.05 * pages
