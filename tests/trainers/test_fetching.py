"""Numbers fetched from a device come back as they were, whatever happens to them meanwhile."""

import pytest
import torch

from ebbflow.trainers.fetching import Fetched

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_come_back_in_their_shapes(device):
    numbers = {
        "loss": torch.tensor(0.1, device=device, requires_grad=True),
        "count": torch.tensor(2**40 + 1, device=device),
        "rows": torch.arange(6.0, device=device).view(2, 3),
        "none": torch.zeros(0, device=device),
    }
    fetched = Fetched(numbers)
    expected = {name: value.detach().double().cpu() for name, value in numbers.items()}
    numbers["rows"].zero_()
    found = fetched.read()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.device.type == "cpu" and torch.equal(value, expected[name])
