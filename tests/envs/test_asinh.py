"""The fast asinh is asinh, with its derivatives, everywhere."""

import torch

from ebbflow.envs.asinh import asinh


def test_values_to_rounding():
    x = torch.logspace(-30, 15, 2000, dtype=torch.float64)
    x = torch.cat([-x, torch.zeros(1, dtype=torch.float64), x])
    torch.testing.assert_close(asinh(x), torch.asinh(x), rtol=1e-14, atol=0)
    assert torch.equal(asinh(x).sign(), x.sign())
    single = x.float()
    torch.testing.assert_close(asinh(single).double(), torch.asinh(single.double()), rtol=3e-7, atol=0)


def test_derivatives():
    x = torch.tensor([-1e6, -2.0, -1e-9, 0.0, 1e-9, 0.3, 5.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(asinh(x).sum(), x, create_graph=True)
    torch.testing.assert_close(first, 1.0 / (1.0 + x.square()).sqrt())  # also at 0, where it is 1
    assert torch.autograd.gradgradcheck(asinh, x[1:])


def test_many_at_once():
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(asinh)(x), torch.asinh(x))
    found = torch.vmap(torch.func.grad(lambda row: asinh(row).sum()))(x)
    torch.testing.assert_close(found, 1.0 / (1.0 + x.square()).sqrt())
