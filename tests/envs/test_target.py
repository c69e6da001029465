"""The target's contract: capabilities, the one check of every value, and the counters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebbflow.envs import CallableTarget, Continuous, Funnel, InputError, Target


class Data(Target):
    """Samples only."""

    def __init__(self):
        super().__init__(Continuous(2), name="data")

    def sample(self, n):
        return torch.zeros(n, 2)


def density(function, dim=2):
    return CallableTarget(function, dim=dim, name="mine")


def test_capabilities_are_known_and_missing_ones_named():
    energy = density(lambda x: -x.square().sum(-1))
    assert (energy.has_log_prob, energy.can_sample) == (True, False)
    assert (Data().has_log_prob, Data().can_sample) == (False, True)
    energy.require_log_prob("training")
    Data().require_sample("training")
    with pytest.raises(InputError, match="EUBO needs exact samples, but target 'mine' has none"):
        energy.require_sample("EUBO")
    with pytest.raises(InputError, match="training needs a log density, but target 'data' has samples but no log"):
        Data().require_log_prob("training")
    with pytest.raises(InputError, match="target 'mine' has no exact samples"):
        energy.sample(3)
    with pytest.raises(
        InputError, match="a value needs a log density, but target 'data' has samples but no log density"
    ):
        Data()(torch.zeros(1, 2))
    with pytest.raises(InputError, match="no known modes"):
        energy.mode_membership(torch.zeros(1, 2))
    assert energy.mode_masses is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(-1) * float("nan"), r"log_prob is nan for 3 of 3 states, first at x = \[1.0, 2.0\]"),
        (lambda x: torch.where(x[:, 0] > 1, torch.inf, 0.0), r"log_prob is inf for 1 of 3 states, first at x = \[3.0"),
        (lambda x: x, r"must have shape \[3\], got \[3, 2\]"),
        (lambda x: x.sum(), r"must have shape \[3\], got \[\]"),
        (lambda x: 0.0, r"must have shape \[3\], got float"),
        (lambda x: x.sum(-1).long(), "must return floating point values, got torch.int64"),
        (lambda x: 1 / 0, "log_prob raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_bad_energy_is_reported(function, message):
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    with pytest.raises(InputError, match=message) as caught:
        density(function)(x)
    assert "target 'mine'" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 1), r"expected states of shape \[..., 2\], got \[3, 1\]"),
        (torch.zeros(()), r"expected states of shape \[..., 2\], got \[\]"),
        (torch.zeros(3, 2, dtype=torch.int64), "expected floating point states, got torch.int64"),
    ],
)
def test_bad_states_are_reported_and_not_counted(x, message):
    target = density(lambda x: x.sum(-1))
    with pytest.raises(InputError, match=message):
        target(x)
    assert target.energy_calls == 0


def test_outside_the_support_is_allowed():
    target = density(lambda x: torch.where(x[:, 0] > 0, 0.0, -torch.inf))
    assert target(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).tolist() == [0.0, -torch.inf]


def test_values_and_gradients_are_counted_apart():
    target = density(lambda x: -x.square().sum(-1))
    target(torch.zeros(4, 3, 2))
    assert (target.energy_calls, target.gradient_calls) == (12, 0)
    value, score = target.value_and_score(torch.ones(5, 2))
    assert (target.energy_calls, target.gradient_calls) == (17, 5)
    assert torch.equal(score, torch.full((5, 2), -2.0)) and not (value.requires_grad or score.requires_grad)


def test_scores_that_cannot_be_had_are_reported():
    with pytest.raises(InputError, match="not differentiable"):
        density(lambda x: x.detach().sum(-1)).value_and_score(torch.zeros(1, 2))
    with pytest.raises(InputError, match="gradient of log_prob is NaN"):
        density(lambda x: -x.square().sum(-1).sqrt()).value_and_score(torch.zeros(1, 2))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bad_scale_is_reported(scale):
    with pytest.raises(InputError, match="scale: expected a positive finite length"):
        CallableTarget(lambda x: x.sum(-1), dim=2, scale=scale)


@given(value=st.one_of(st.integers(max_value=0), st.floats(), st.booleans(), st.text(max_size=3), st.none()))
def test_a_bad_dimension_is_reported(value):
    with pytest.raises(InputError, match=r"dim: expected a whole number >= 1"):
        Continuous(value)


# Functions ------------------------------------------------------------------------------------------------------------


def test_a_function_is_a_target():
    def ring(x):
        assert x.ndim == 2  # whatever the batch, the function sees rows
        return -((x.norm(dim=-1) - 3.0) ** 2)

    target = CallableTarget(ring, dim=2, scale=2.0, sample=lambda n: torch.ones(n, 2), log_z=1.5)
    assert (target.name, target.scale, target.log_z, target.space.dim) == ("ring", 2.0, 1.5, 2)
    assert target.can_sample and target.sample(3).shape == (3, 2)
    x = torch.randn(4, 3, 2)
    assert torch.equal(target(x), ring(x.flatten(0, 1)).reshape(4, 3))
    assert target(x[0, 0]).shape == ()


def test_a_module_moves_with_its_target():
    module = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0))
    target = CallableTarget(module, dim=2).double()
    assert target(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert target.name == "Sequential"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_prob": 3, "dim": 2}, "log_prob: expected a function of states, got int"),
        (
            {"log_prob": len, "dim": 2, "sample": torch.zeros(3, 2)},
            "sample: expected a function of a count, got Tensor",
        ),
        ({"log_prob": len, "dim": 0}, "dim: expected a whole number >= 1, got 0"),
    ],
)
def test_bad_functions_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        CallableTarget(**arguments)


@pytest.mark.parametrize("samples", [torch.zeros(4, 3), torch.zeros(3, 2), [0.0]])
def test_samples_of_another_shape_are_reported(samples):
    target = CallableTarget(lambda x: x.sum(-1), dim=2, sample=lambda n: samples, name="mine")
    with pytest.raises(InputError, match=r"target 'mine': sample\(4\) must have shape \[4, 2\]"):
        target.sample(4)


def test_deep_in_the_neck_the_funnel_stays_finite():
    target = Funnel(4)
    x = torch.tensor([[-200.0, 0.0, 0.0, 0.0], [-79.0, 1e-9, 0.0, 0.0], [200.0, 1.0, 2.0, 3.0]])
    value, score = target.value_and_score(x)
    assert value.isfinite().all() and score.isfinite().all()
