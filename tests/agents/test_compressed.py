"""An agent in compressed coordinates is the plain agent on the pulled-back density, seen through the map."""

import pytest
import torch
from torchrl.envs.utils import check_env_specs

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import Compressed, Continuous, DestructionEnv, GenerationEnv, InputError
from ebbflow.envs.targets import CallableTarget

LENGTH = 1.2  # in units of the scale, 1.5 in `random_agent`
REFERENCES = ["bridge", "variance_exploding", "variance_preserving"]
SETTINGS = [{}, {"langevin": True, "features": ("raw", "asinh", "score")}]


@pytest.fixture
def pair(random_agent, quartic):
    def make(**settings):
        plain = random_agent(**settings)
        compressed = random_agent(compression=LENGTH, **settings)
        compressed.load_state_dict(plain.state_dict())
        space = compressed.space
        assert isinstance(space, Compressed)

        def pulled_back(u):
            x = space.transition(torch.zeros_like(u), u, 0)
            return quartic.log_prob(x) + space.log_volume(x)

        return plain, CallableTarget(pulled_back, dim=2), compressed, quartic

    return make


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_generation_and_its_log_ratio(pair, reference, settings):
    plain, pulled_back, compressed, target = pair(reference=reference, **settings)
    torch.manual_seed(3)
    inner = plain.generate(50, pulled_back)
    torch.manual_seed(3)
    outer = compressed.generate(50, target)
    coordinates = compressed.space.coordinates(outer["state"])
    torch.testing.assert_close(coordinates, inner["state"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(compressed.log_ratio(outer), plain.log_ratio(inner), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_destruction_and_its_log_ratio(pair, reference, settings):
    plain, pulled_back, compressed, target = pair(reference=reference, **settings)
    x = 2.0 * torch.randn(50, 2)
    torch.manual_seed(3)
    inner = plain.destroy(compressed.space.coordinates(x), pulled_back)
    torch.manual_seed(3)
    outer = compressed.destroy(x, target)
    torch.testing.assert_close(outer["state"][:, -1], x)
    torch.testing.assert_close(compressed.log_ratio(outer), plain.log_ratio(inner), rtol=1e-9, atol=1e-9)


def test_steps_are_densities_of_the_state(random_agent):
    """∫ p(x_{k+1} | x_k) dx_{k+1} = 1, by quadrature over states, not coordinates."""
    agent = random_agent(dim=1, steps=2, compression=0.5)
    grid = torch.sinh(torch.linspace(-14.0, 14.0, 20_001)).unsqueeze(-1)
    paths = torch.stack([torch.zeros_like(grid), torch.full_like(grid, 0.3), grid], dim=1)
    log_prob = agent.path_log_probs({"state": paths}).generation[:, 1]
    assert torch.trapezoid(log_prob.exp(), grid[:, 0]).item() == pytest.approx(1.0, abs=1e-6)


def test_exact_on_what_the_bridge_reaches():
    """The law of L·sinh(u/L), u normal, under its bridge: D is constant and the bounds meet."""
    agent = build_agent(Continuous(3), scale=2.0, steps=4, config=AgentConfig(width=8, compression=0.6))
    space = agent.space

    def log_prob(x):
        u = space.coordinates(x)
        return -0.5 * (u / 2.0).square().sum(-1) - space.log_volume(x)

    target = CallableTarget(log_prob, dim=3, scale=2.0)
    log_ratio = torch.cat(
        [
            agent.log_ratio(agent.generate(100, target)),
            agent.log_ratio(agent.destroy(space.transition(torch.zeros(100, 3), 2.0 * torch.randn(100, 3), 0), target)),
        ]
    )
    expected = torch.full_like(
        log_ratio, -3.0 * (0.5 * torch.log(torch.tensor(2 * torch.pi)) + torch.tensor(2.0).log())
    )
    torch.testing.assert_close(log_ratio, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("destroys", [False, True])
def test_environments_take_the_same_steps(random_agent, quartic, destroys):
    agent = random_agent(compression=LENGTH)
    x = 2.0 * torch.randn(5, 2)
    where = {"space": agent.space, "batch_size": [5], "dtype": torch.float64}
    if destroys:
        env = DestructionEnv(quartic, 3, lambda n: x, **where)
        actor = agent.destruction_actor()
    else:
        env = GenerationEnv(quartic, 3, **where)
        actor = agent.generation_actor()
    check_env_specs(env)
    torch.manual_seed(1)
    states = env.rollout(3, actor)["next", "state"]
    torch.manual_seed(1)
    paths = agent.destroy(x)["state"].flip(1) if destroys else agent.generate(5)["state"]
    torch.testing.assert_close(states, paths[:, 1:], rtol=1e-9, atol=1e-9)


def test_a_space_of_another_shape_is_refused(quartic):
    with pytest.raises(InputError, match="space"):
        GenerationEnv(quartic, 3, space=Compressed(3))


def test_a_space_with_coordinates_of_its_own_keeps_them():
    class Shifted(Continuous):
        def coordinates(self, state):
            return state - 1.0

    for space in (Compressed(2, length=7.0), Shifted(2)):
        assert build_agent(space, scale=1.5, steps=2).space is space
    assert build_agent(Continuous(2), scale=1.5, steps=2).space == Compressed(2, length=4.5)
    assert build_agent(Continuous(2), scale=1.5, steps=2, config=AgentConfig(compression=None)).space == Continuous(2)


@pytest.mark.parametrize("compression", [0.0, -1.0, float("inf"), float("nan")])
def test_compression_out_of_range(compression):
    with pytest.raises(InputError, match="compression"):
        build_agent(Continuous(1), scale=1.0, steps=2, config=AgentConfig(compression=compression))
