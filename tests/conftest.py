"""What every test starts from: one thread, a fixed seed, no display, and the same generated examples each time."""

from collections.abc import Iterator

import matplotlib
import numpy
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)  # the networks of the tests are small; more threads only wait for each other

settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("deterministic")


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Double precision as torch's default, for tests that hold something to rounding."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same numbers, alone or in any order."""
    torch.manual_seed(0)
    numpy.random.seed(0)
