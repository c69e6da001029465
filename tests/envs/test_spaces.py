import pytest
import torch

from ebbflow.envs import Compressed, InputError


@pytest.fixture
def space():
    return Compressed(dim=3, length=0.7)


def states(n=200, spread=3.0):
    return torch.sinh(spread * torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def test_actions_are_increments_of_the_coordinates(space):
    x = states()
    action = torch.randn_like(x)
    there = space.transition(x, action, 0)
    torch.testing.assert_close(space.coordinates(there), space.coordinates(x) + action, rtol=1e-12, atol=1e-12)


def test_small_lengths_are_kept_and_large_ones_compressed(space):
    small, large = torch.full((1, 3), 1e-4).double(), torch.full((1, 3), 1e6).double()
    torch.testing.assert_close(space.coordinates(small), small, rtol=1e-7, atol=0.0)
    assert space.coordinates(large).max() < 11


def test_log_volume_is_that_of_the_map(space):
    u = space.coordinates(states(20))
    for row in u:
        jacobian = torch.autograd.functional.jacobian(lambda v: space.transition(torch.zeros_like(v), v, 0), row)
        expected = jacobian.diagonal().log().sum()
        x = space.transition(torch.zeros_like(row), row, 0)
        torch.testing.assert_close(space.log_volume(x), expected, rtol=1e-10, atol=1e-10)


def test_score_is_the_gradient_by_the_coordinates(space):
    u = space.coordinates(states(20)).requires_grad_()
    x = space.transition(torch.zeros_like(u), u, 0)
    (expected,) = torch.autograd.grad((-0.25 * (x**4).sum(-1) + x[:, 0] + space.log_volume(x)).sum(), u)
    x = x.detach()
    by_x = -(x**3) + torch.eye(3, dtype=x.dtype)[0]
    torch.testing.assert_close(space.score(x, by_x), expected, rtol=1e-9, atol=1e-9)


def test_nothing_overflows(space):
    far = space.transition(torch.zeros(1, 3), torch.tensor([[1e30, -1e30, 0.0]]), 0)
    assert far.isfinite().all()
    assert far.square().isfinite().all()


@pytest.mark.parametrize("length", [0.0, -1.0, float("nan"), float("inf")])
def test_length_out_of_range(length):
    with pytest.raises(InputError, match="length"):
        Compressed(dim=2, length=length)
