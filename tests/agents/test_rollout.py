"""Rollouts: equal to TorchRL's, with gradient only when asked for, and widened as documented."""

import itertools

import pytest
import torch
from tensordict import TensorDict

from ebbflow.agents import rollout_destruction, rollout_generation
from ebbflow.agents.references import REFERENCES
from ebbflow.envs import DestructionEnv, GenerationEnv, InitialLaw, InputError

SETTINGS = {
    "plain": {},
    "langevin": {"langevin": True},
    "score": {"features": ("raw", "score")},
    "separate": {"shared_backbone": False, "tables": False},
    "fixed": {"generation_variance": "fixed", "destruction_mean": "reference", "destruction_variance": "reference"},
}
CASES = list(itertools.product(REFERENCES, SETTINGS))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROWS = 11


# Equal to TorchRL's rollouts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "settings"), CASES)
def test_generation_equals_the_environments_rollout(random_agent, quartic, reference, settings):
    agent = random_agent(reference=reference, **SETTINGS[settings])
    law = InitialLaw(agent.reference.initial_std)
    env = GenerationEnv(quartic, agent.steps, law, batch_size=[ROWS], dtype=torch.float64)
    torch.manual_seed(5)
    walk = env.rollout(100, agent.generation_actor(quartic))
    torch.manual_seed(5)
    paths = agent.generate(ROWS, quartic)
    torch.testing.assert_close(paths["state"][:, :-1], walk["state"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(paths["state"][:, 1:], walk["next", "state"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(paths["log_reward"], walk["next", "reward"][:, -1, 0], rtol=1e-11, atol=1e-11)
    if agent.needs_score:
        torch.testing.assert_close(paths["score"][:, :-1], walk["score"], rtol=1e-11, atol=1e-11)
    expected = agent.path_log_probs(paths).generation
    torch.testing.assert_close(walk["action_log_prob"], expected, rtol=1e-11, atol=1e-11)
    assert paths["state"].std(0)[1:].min() > 0.1  # a sample, not the mean path


@pytest.mark.parametrize(("reference", "settings"), CASES)
def test_destruction_equals_the_environments_rollout(random_agent, quartic, reference, settings):
    agent = random_agent(reference=reference, **SETTINGS[settings])
    x = 2 * torch.randn(ROWS, 2)
    env = DestructionEnv(quartic, agent.steps, batch_size=[ROWS], dtype=torch.float64)
    start = env.reset(TensorDict({"state": x}, batch_size=[ROWS]))
    torch.manual_seed(5)
    walk = env.rollout(100, agent.destruction_actor(quartic), tensordict=start, auto_reset=False)
    torch.manual_seed(5)
    paths = agent.destroy(x, quartic)
    torch.testing.assert_close(paths["state"].flip(1)[:, :-1], walk["state"], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(paths["state"].flip(1)[:, 1:], walk["next", "state"], rtol=1e-11, atol=1e-11)
    assert torch.equal(paths["state"][:, -1], x)
    torch.testing.assert_close(paths["log_reward"], quartic(x), rtol=1e-11, atol=1e-11)
    if agent.needs_score:
        torch.testing.assert_close(paths["score"].flip(1)[:, :-1], walk["score"], rtol=1e-11, atol=1e-11)
    expected = agent.path_log_probs(paths).destruction.flip(1)
    torch.testing.assert_close(walk["action_log_prob"], expected, rtol=1e-11, atol=1e-11)
    assert paths["state"].std(0)[1:].min() > 0.1


def test_the_methods_are_the_functions(random_agent, quartic):
    agent = random_agent()
    for method, function in (
        (lambda: agent.generate(4, quartic, scale=2.0), lambda: rollout_generation(agent, 4, quartic, scale=2.0)),
        (lambda: agent.destroy(torch.ones(4, 2)), lambda: rollout_destruction(agent, torch.ones(4, 2))),
    ):
        torch.manual_seed(1)
        first = method()
        torch.manual_seed(1)
        assert (first == function()).all()


# What a trajectory holds, and what it costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["plain", "langevin", "score"])
def test_density_calls(random_agent, quartic, reads):
    agent = random_agent(**SETTINGS[reads])
    states = agent.steps * ROWS + 1 if agent.needs_score else ROWS  # x_0 is the same for all rows
    gradients = states if agent.needs_score else 0
    agent.generate(ROWS, quartic)
    assert (quartic.energy_calls, quartic.gradient_calls) == (states, gradients)
    agent.destroy(torch.randn(ROWS, 2), quartic)
    assert (quartic.energy_calls, quartic.gradient_calls) == (2 * states, 2 * gradients)


@pytest.mark.parametrize("reads", ["langevin", "score"])
def test_scores_and_rewards_are_those_of_the_states(random_agent, quartic, reads):
    agent = random_agent(**SETTINGS[reads])
    for paths in (agent.generate(5, quartic), agent.destroy(torch.randn(5, 2), quartic)):
        for k in range(agent.steps + 1):
            assert torch.equal(paths["score"][:, k], quartic.value_and_score(paths["state"][:, k])[1])
        assert torch.equal(paths["log_reward"], quartic(paths["state"][:, -1]))


def test_without_a_density(random_agent, quartic):
    agent = random_agent()
    x, known = torch.randn(4, 2), torch.randn(4)
    assert set(agent.generate(4).keys()) == {"state"}
    assert set(agent.destroy(x).keys()) == {"state"}
    assert torch.equal(agent.destroy(x, quartic, log_reward=known)["log_reward"], known)
    assert torch.equal(agent.destroy(x, log_reward=known)["log_reward"], known)
    assert quartic.energy_calls == 0


@pytest.mark.parametrize("reads", ["langevin", "score"])
def test_scores_need_a_density(random_agent, reads):
    agent = random_agent(**SETTINGS[reads])
    for act in (lambda: agent.generate(4), lambda: agent.destroy(torch.ones(4, 2)), agent.generation_actor):
        with pytest.raises(InputError, match="reads the gradient of the log density: pass the target as `density`"):
            act()
    if reads == "score":
        with pytest.raises(InputError, match="pass the target as `density`"):
            agent.destruction_actor()
    else:
        assert agent.destruction_actor() is not None  # Langevin drift is generation's alone
        with pytest.raises(InputError, match="langevin: needs the gradient of the log density"):
            agent.generation_step(torch.zeros(4, 2), 0)


def test_the_densitys_errors_come_through(random_agent, quartic):
    agent = random_agent()
    with pytest.raises(InputError, match=r"log_prob is nan for 1 of 2 states"):
        agent.destroy(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]]), quartic)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", ["plain", "langevin", "score"])
@pytest.mark.parametrize("reference", REFERENCES)
def test_gradients_only_when_asked_for(random_agent, quartic, reference, reads):
    agent = random_agent(reference=reference, **SETTINGS[reads])
    for paths in (agent.generate(5, quartic), agent.destroy(torch.randn(5, 2), quartic)):
        assert not paths["state"].requires_grad and not paths["log_reward"].requires_grad
    torch.manual_seed(3)
    paths = agent.generate(5, quartic, differentiable=True)
    torch.manual_seed(3)
    assert (agent.generate(5, quartic) == paths.detach()).all()
    for column in ("state", "log_reward"):
        gradients = torch.autograd.grad(paths[column].sum(), list(agent.generation.parameters()), retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients), column


@pytest.mark.parametrize("widening", [{}, {"scale": 1.5, "added": 0.5}], ids=str)
def test_the_gradient_of_a_path_is_that_of_finite_differences(random_agent, quartic, widening):
    agent = random_agent()

    def mean_log_ratio(differentiable=False):
        torch.manual_seed(3)
        paths = agent.generate(5, quartic, differentiable=differentiable, **widening)
        return agent.log_ratio(paths).mean()

    bias, step = agent.generation.readout.linear.bias, 1e-5
    (gradient,) = torch.autograd.grad(mean_log_ratio(differentiable=True), bias)
    for i in range(bias.numel()):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[i] += sign * step
                values.append(mean_log_ratio().item())
                bias[i] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient[i].item(), rel=1e-6, abs=1e-8)


# Exploration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed", "learned"])
@pytest.mark.parametrize(("scale", "added"), [(1.0, 0.0), (1.5, 0.0), (1.0, 0.7), (2.0, 1.5)])
@pytest.mark.parametrize("reference", REFERENCES)
def test_widening(random_agent, reference, scale, added, variance):
    """Every step's noise is multiplied as documented, the same standard normal numbers being drawn."""
    agent = random_agent(reference=reference, generation_variance=variance)
    torch.manual_seed(5)
    states = agent.generate(ROWS, scale=scale, added=added)["state"]
    torch.manual_seed(5)
    assert torch.equal(agent.initial_state(ROWS), states[:, 0])  # the initial law is not widened
    for k in range(agent.steps):
        mean, log_variance = agent.generation_step(states[:, k], k)
        reference_variance = agent.reference.generation_variance[k]
        std = (scale**2 * log_variance.exp() + added**2 * reference_variance).sqrt()
        torch.testing.assert_close(states[:, k + 1], mean + std * torch.randn(ROWS, 2), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("scale", "added"), [(1.0, 0.0), (2.0, 1.5)])
def test_widening_shows_in_the_samples(random_agent, scale, added):
    agent = random_agent(steps=1, size=0.0, sigma=2.0)
    x = agent.generate(40_000, scale=scale, added=added)["state"][:, 1]
    assert x.std().item() == pytest.approx(2.0 * (scale**2 + added**2) ** 0.5, rel=0.02)
    assert x.mean().abs().item() < 0.1


@pytest.mark.parametrize("settings", [{}, {"langevin": True}], ids=str)
def test_the_drift_pushes_every_step_along_the_bounded_score(random_agent, quartic, settings):
    """As documented, also where the policy reads the score by itself, on top of widened noise; log R is not pushed."""
    agent = random_agent(**settings)
    torch.manual_seed(5)
    paths = agent.generate(ROWS, quartic, scale=1.5, drift=0.7)
    states = paths["state"]
    torch.manual_seed(5)
    agent.initial_state(ROWS)
    clipped = []
    for k in range(agent.steps):
        score = quartic.value_and_score(states[:, k])[1]
        mean, log_variance = agent.generation_step(states[:, k], k, score)
        std = (0.5 * log_variance).exp()
        clipped.append((std * score).abs() > 1)
        mean = mean + 0.7 * std * (std * score).clamp(-1, 1)
        expected = mean + 1.5 * std * torch.randn(ROWS, 2)
        torch.testing.assert_close(states[:, k + 1], expected, rtol=1e-11, atol=1e-11)
    assert 0 < torch.cat(clipped).double().mean() < 1  # both sides of the bound were seen
    torch.testing.assert_close(paths["log_reward"], quartic(states[:, -1]))
    assert ("score" in paths.keys()) == agent.needs_score  # noqa: SIM118 (a TensorDict)


def test_what_the_drift_costs(random_agent, quartic):
    """A value and a gradient for each step; nothing more where the policy reads the score anyway, or without drift.

    Of x_0, which is the same for all rows, it is one.
    """
    drifting, reading = (3 * ROWS + 1, 2 * ROWS + 1), (3 * ROWS + 1, 3 * ROWS + 1)
    for settings, drift, expected in (({}, 0.5, drifting), ({}, 0.0, (ROWS, 0)), ({"langevin": True}, 0.5, reading)):
        before = quartic.energy_calls, quartic.gradient_calls
        random_agent(steps=3, **settings).generate(ROWS, quartic, drift=drift)
        calls = quartic.energy_calls - before[0], quartic.gradient_calls - before[1]
        assert calls == expected
    with pytest.raises(InputError, match="drift: needs the gradient of the log density"):
        random_agent().generate(ROWS, drift=0.5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_one_row_to_start_from_is_that_of_all(random_agent, quartic, settings):
    agent = random_agent(**SETTINGS[settings])
    noise = torch.randn(agent.steps, ROWS, 2)
    found = [
        rollout_generation(agent, ROWS, quartic, start=start, noise=noise)
        for start in (None, torch.zeros(1, 2), torch.zeros(ROWS, 2))
    ]
    for other in found[1:]:
        for name, column in found[0].items():
            torch.testing.assert_close(other[name], column, rtol=1e-10, atol=1e-10)
    assert found[0]["state"].shape == (ROWS, agent.steps + 1, 2)


def test_as_many_states_to_start_from_as_paths(random_agent, quartic):
    with pytest.raises(InputError, match="start: expected 5 states, or one for all paths, got 3"):
        random_agent().generate(5, quartic, start=torch.zeros(3, 2))


# Segments -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_segments_are_the_ends_of_paths(random_agent, quartic, reference, settings):
    """Stopped at x_j and taken up from there; densities of the steps are those of the whole path."""
    agent = random_agent(reference=reference, steps=4, **SETTINGS[settings])
    whole = agent.generate(ROWS, quartic)
    log_probs = agent.path_log_probs(whole)
    for first in range(4):
        end = TensorDict({key: value[:, first:] for key, value in whole.items() if key != "log_reward"}, [ROWS])
        part = agent.path_log_probs(end)
        torch.testing.assert_close(part.generation, log_probs.generation[:, first:], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(part.destruction, log_probs.destruction[:, first:], rtol=1e-11, atol=1e-11)
        assert torch.equal(part.initial, torch.zeros(ROWS) if first else log_probs.initial)
        torch.manual_seed(1)
        destroyed = agent.destroy(whole["state"][:, -1], quartic)["state"]
        torch.manual_seed(1)
        stopped = agent.destroy(whole["state"][:, -1], quartic, first=first)["state"]
        assert torch.equal(stopped, destroyed[:, first:])
        taken_up = agent.generate(ROWS, quartic, start=stopped[:, 0], first=first)
        assert taken_up["state"].shape == (ROWS, 5 - first, 2)
        assert torch.equal(taken_up["state"][:, 0], stopped[:, 0])
        assert taken_up["log_reward"].shape == (ROWS,)


@pytest.mark.parametrize("settings", ["plain", "langevin"])
def test_given_noise_takes_the_place_of_the_generator(random_agent, quartic, settings):
    agent = random_agent(steps=4, **SETTINGS[settings])
    for first in (0, 1):
        start = torch.randn(ROWS, 2, dtype=torch.float64)
        torch.manual_seed(3)
        noise = torch.stack([torch.randn(ROWS, 2, dtype=torch.float64) for _ in range(4 - first)])
        torch.manual_seed(3)
        there = rollout_generation(agent, ROWS, quartic, start=start, first=first, scale=1.5, added=0.1)
        given = {"start": start, "first": first, "noise": noise}
        again = rollout_generation(agent, ROWS, quartic, scale=1.5, added=0.1, **given)
        assert torch.equal(there["state"], again["state"])
        widened = {"scale": torch.tensor(1.5, dtype=torch.float64), "added": torch.tensor(0.1, dtype=torch.float64)}
        tensors = rollout_generation(agent, ROWS, quartic, **widened, **given)
        torch.testing.assert_close(there["state"], tensors["state"])
        torch.manual_seed(3)
        back = rollout_destruction(agent, start, quartic, first=first)
        assert torch.equal(back["state"], rollout_destruction(agent, start, quartic, first=first, noise=noise)["state"])


def test_segments_that_cannot_be(random_agent):
    agent = random_agent(steps=3)
    with pytest.raises(InputError, match="start: expected states at grid point 2, got None"):
        agent.generate(ROWS, first=2)
    for first in (-1, 3):
        with pytest.raises(InputError, match=f"first: expected a grid point from 0 to 2, got {first}"):
            agent.destroy(torch.zeros(ROWS, 2), first=first)


# Devices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("device", DEVICES)
def test_device_and_precision(random_agent, quartic, device, reference, settings):
    """The same path everywhere: moved and rounded, an agent gives the same log-ratio up to rounding."""
    agent = random_agent(reference=reference, **SETTINGS[settings])
    paths = agent.generate(ROWS, quartic)
    expected = agent.log_ratio(paths)
    agent = agent.to(device, torch.float32)
    moved = paths.to(device).float()
    torch.testing.assert_close(agent.log_ratio(moved).cpu().double(), expected, rtol=1e-3, atol=1e-3)
    for sampled in (agent.generate(4, quartic, scale=1.5, added=0.1), agent.destroy(moved["state"][:, -1], quartic)):
        for column in sampled.values():
            assert column.device.type == device and column.dtype == torch.float32 and column.isfinite().all()
    actor = agent.generation_actor(quartic)
    step = torch.zeros(ROWS, 1, dtype=torch.int64, device=device)
    written = actor(TensorDict({"state": moved["state"][:, 0], "step": step}, batch_size=[ROWS]))
    assert written["action"].device.type == device
