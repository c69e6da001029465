"""Fourier features: those that are octaves of others are the same sines and cosines, and fewer are computed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ebbflow.agents.features import StateFeatures, octaves

CHOICES = {
    "default": (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0),
    "one chain": (1.0, 2.0, 4.0, 8.0),
    "no octaves": (1.0, 3.0, 5.0),
    "from high to low": (4.0, 2.0, 1.0),
    "second of a block only": (1.0, 1.4, 2.8, 5.6),
    "twice the same, and zero": (0.0, 1.0, 1.0, 2.0, 2.0),
}


@pytest.mark.parametrize("frequencies", CHOICES.values(), ids=CHOICES)
def test_values_and_gradients(frequencies):
    torch.set_default_dtype(torch.float64)
    features = StateFeatures(["fourier"], scale=1.5, frequencies=frequencies)
    x = (4.0 * torch.randn(50, 3)).requires_grad_()
    angle = 3.0 * torch.asinh(x / 4.5).unsqueeze(-1) * torch.tensor(frequencies)
    expected, found = torch.cat([angle.sin(), angle.cos()], dim=-1), features(x)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((weight * one).sum(), x, retain_graph=True)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frequencies", CHOICES.values(), ids=CHOICES)
def test_blocks_are_all_frequencies_in_order(frequencies):
    blocks = octaves(frequencies)
    assert [number for begin, end, _ in blocks for number in range(begin, end)] == list(range(len(frequencies)))
    for begin, end, lower in blocks:
        if lower is not None:
            half = blocks[lower]
            assert half.end <= begin and end - begin <= half.end - half.begin
            assert frequencies[begin:end] == tuple(2.0 * f for f in frequencies[half.begin : half.begin + end - begin])


class Names(TorchDispatchMode):
    """The operations that were asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "doubled"), [("cpu", 2 * 3), ("meta", 0)])
def test_angles_are_doubled_where_operations_cost_less_than_sines(device, doubled):
    features = StateFeatures(["fourier"], scale=1.0, frequencies=CHOICES["one chain"]).to(device)
    with Names() as asked:
        assert features(torch.ones(5, 3, device=device)).shape == (5, 3, 8)
    assert asked.names.count("addcmul") == doubled
    assert asked.names.count("sin") == asked.names.count("cos") == 1


def test_rounding_is_that_of_single_precision():
    features = StateFeatures(["fourier"], scale=1.0, frequencies=CHOICES["default"])
    x = 10.0 * torch.randn(1000, 1)
    found = features(x).double()
    expected = StateFeatures(["fourier"], scale=1.0, frequencies=CHOICES["default"]).double()(x.double())
    assert (found - expected).abs().max() < 2e-5  # an angle of 8 · 3 · asinh(10) has a rounding error of 4e-6
