"""Rows lie side by side wherever time is spent, and whatever comes in another order gives the same."""

import pytest
import torch

from ebbflow.agents.rows_innermost import (
    as_columns,
    cat_rows,
    linear,
    rows_innermost,
    stack_steps,
    steps_of,
    sum_of_products,
)

B = 11  # more rows than the width of the networks, 8: else products fold


def is_innermost(x):
    return x.movedim(0, -1).is_contiguous()


def test_rollouts_and_what_is_computed_of_them(random_agent, quartic):
    agent = random_agent()
    for paths in (agent.generate(B, quartic), agent.destroy(torch.randn(B, 2), quartic)):
        assert is_innermost(paths["state"])
        features = agent.path_features(paths)
        assert is_innermost(features) and is_innermost(agent.backbone(features, slice(None)))


@pytest.mark.parametrize("needs", [{}, {"features": ("raw", "score"), "langevin": True}])
def test_another_order_gives_the_same_values_and_gradients(random_agent, quartic, needs):
    agent = random_agent(**needs)
    paths = agent.generate(B, quartic)
    other = paths.clone()
    for name in ("state", *(["score"] if needs else [])):
        other[name] = paths[name].contiguous()
        assert not is_innermost(other[name]) and torch.equal(other[name], paths[name])
    parameters = [p for p in agent.parameters() if p is not agent.log_z]
    found = []
    for each in (paths, other):
        log_ratio = agent.log_ratio(each)
        gradients = torch.autograd.grad(log_ratio.var(), parameters, allow_unused=True)
        found.append([log_ratio, *(g for g in gradients if g is not None)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


def test_users_see_states_that_are_contiguous(random_agent):
    agent, seen = random_agent(), []

    def density(x):
        seen.append(x.is_contiguous())
        return -x.view(-1).view(len(x), -1).square().sum(-1)

    agent.generate(B, density)
    agent.destroy(torch.randn(2, B).T, density)
    assert seen == [True, True]


@pytest.mark.parametrize("dim", [1, 2])
def test_a_density_may_differentiate_by_what_it_is_given(random_agent, dim):
    def density(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(-leaf.square().sum(), leaf)
        return -force.square().sum(-1)

    agent = random_agent(dim=dim)
    paths = agent.generate(B, density)
    torch.testing.assert_close(paths["log_reward"], -4 * paths["state"][:, -1].square().sum(-1))
    assert not any(column.is_inference() for column in paths.values())
    agent.log_ratio(paths).sum().backward()


def test_products_and_parts():
    x, weight, bias = torch.randn(B, 4, 3), torch.randn(5, 3), torch.randn(5)
    expected = torch.nn.functional.linear(x, weight, bias)
    for rows in (B, 4):  # of more rows than outputs each place has a product of its own, of fewer all have one
        given = x[:rows].movedim(0, -1)
        torch.testing.assert_close(linear(given, weight, bias).movedim(-1, 0), expected[:rows])
        gradient = torch.randn(4, 5, rows)
        expected_sum = torch.einsum("nob,nib->oi", gradient, given)
        torch.testing.assert_close(sum_of_products(gradient, given), expected_sum)
    torch.testing.assert_close(linear(x[:, 0].T, weight, bias).T, expected[:, 0])
    assert torch.equal(rows_innermost(x), x) and is_innermost(rows_innermost(x))
    assert torch.equal(cat_rows([x, x[:2]]), torch.cat([x, x[:2]])) and is_innermost(cat_rows([x, x[:2]]))
    assert torch.equal(stack_steps([x[:, 0], x[:, 1]]), x[:, :2])
    assert torch.equal(as_columns(x[0], ndim=3), x[0].unsqueeze(-1))
    leaf = rows_innermost(x).requires_grad_()
    (gradient,) = torch.autograd.grad(steps_of(leaf, slice(1, 3)).sum(), leaf)
    assert is_innermost(gradient)
    assert gradient.sum() == B * 2 * 3
