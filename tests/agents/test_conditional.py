"""Context in both policies: every way through the agent sees the same one, and log Z is a function of it."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.envs import ConditionalMixture, DestructionEnv, GenerationEnv, InitialLaw, InputError

STEPS = 3


def conditional_agent(seed=0, **settings):
    torch.manual_seed(seed)
    target = ConditionalMixture().double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        config = AgentConfig(width=16, **settings)
        agent = build_agent(target.space, scale=3.0, steps=STEPS, config=config, context_space=target.context_space)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():  # heads start at zero: as references, both policies would not notice a context
        for parameter in agent.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return agent, target


SETTINGS = [
    {},
    {"shared_backbone": False},
    {"reference": "variance_exploding"},
    {"features": ("raw", "score"), "langevin": True},
    {"destruction_mean": "reference", "destruction_variance": "reference"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_paths_are_scored_by_their_own_context(settings):
    agent, target = conditional_agent(**settings)
    context = target.sample_context(6)
    paths = agent.generate(6, target, context=context)
    torch.testing.assert_close(paths["log_reward"], target(paths["state"][:, -1], context))
    assert paths["context"].equal(context)
    whole = agent.log_ratio(paths)
    alone = torch.cat([agent.log_ratio(paths[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=1e-10)
    for i in range(6):  # and equal to the agent at that context, which needs none
        given = agent.given(context[i])
        x = paths["state"][i : i + 1, -1]
        torch.manual_seed(3)
        by_row = agent.destroy(x, target, context=context[i : i + 1])
        torch.manual_seed(3)
        at_one = given.destroy(x, target.given(context[i]))
        assert by_row["state"].equal(at_one["state"])
        torch.testing.assert_close(agent.log_ratio(by_row), given.log_ratio(at_one), rtol=0, atol=0)
    other = paths.clone()
    other["context"] = context.flip(0) + 0.1
    assert not torch.allclose(agent.log_ratio(other), whole)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_lean_rollouts_equal_the_environments(settings):
    agent, target = conditional_agent(**settings)
    context = target.sample_context(5)
    start = TensorDict({"context": context}, batch_size=[5])
    for destroys in (False, True):
        if destroys:
            x = target.sample(5, context)
            env = DestructionEnv(target, STEPS, space=agent.space, batch_size=[5], dtype=torch.float64)
            start["state"] = x
        else:
            law = InitialLaw(agent.reference.initial_std)
            env = GenerationEnv(target, STEPS, law, space=agent.space, batch_size=[5], dtype=torch.float64)
        actor = agent.destruction_actor(target) if destroys else agent.generation_actor(target)
        torch.manual_seed(1)
        with torch.no_grad():
            rolled = env.rollout(STEPS, actor, tensordict=env.reset(start.clone()), auto_reset=False)
        torch.manual_seed(1)
        lean = agent.destroy(x, target, context=context) if destroys else agent.generate(5, target, context=context)
        states = torch.cat([rolled["state"], rolled["next", "state"][:, -1:]], dim=1)
        states = states.flip(1) if destroys else states
        torch.testing.assert_close(states, lean["state"], rtol=1e-10, atol=1e-10)
        assert rolled["next", "context"][:, -1].equal(context)
        if not destroys:
            torch.testing.assert_close(rolled["next", "reward"][:, -1, 0], lean["log_reward"])


def test_environments_of_a_conditional_target_keep_their_specs_and_draw_contexts():
    target = ConditionalMixture()
    for env in (GenerationEnv(target, 2, batch_size=[4]), DestructionEnv(target, 2, batch_size=[4])):
        check_env_specs(env)
        torch.manual_seed(0)
        first = env.reset()["context"]
        assert first.shape == (4, 2) and len(first.unique(dim=0)) == 4
    with pytest.raises(InputError, match="expected beside the given states"):
        env.reset(TensorDict({"state": torch.zeros(4, 2)}, batch_size=[4]))
    seen = []
    source = DestructionEnv(target, 2, lambda n, context: seen.append(context) or context * 3, batch_size=[4])
    reset = source.reset()
    assert reset["context"].equal(seen[0]) and reset["state"].equal(3 * reset["context"])


def test_log_z_is_a_function_of_the_context_from_a_common_level_on():
    target = ConditionalMixture()
    agent = build_agent(target.space, scale=3.0, steps=2, context_space=target.context_space)
    context = target.sample_context(7)
    with torch.no_grad():
        agent.log_z.fill_(2.5)
    assert agent.log_z_given(context).equal(torch.full((7,), 2.5))
    with torch.no_grad():
        agent.log_z_network[-1].weight.normal_()
    assert len(agent.log_z_given(context).unique()) == 7
    plain = build_agent(target.space, scale=3.0, steps=2)
    assert plain.log_z_given(None) is plain.log_z


def test_what_is_wrong_with_contexts_is_named():
    agent, target = conditional_agent()
    with pytest.raises(InputError, match=r"this agent is conditional and expects contexts \[n, 2\], got none"):
        agent.generate(3, target)
    with pytest.raises(InputError, match=r"expects contexts \[n, 2\], got \[3, 5\]"):
        agent.generate(3, target, context=torch.zeros(3, 5))
    with pytest.raises(InputError, match=r"one for each of 3 trajectories, got \[4, 2\]"):
        agent.destroy(torch.zeros(3, 2), target, context=torch.zeros(4, 2))
    plain = build_agent(target.space, scale=3.0, steps=2)
    with pytest.raises(InputError, match="this agent is not conditional"):
        plain.generate(3, context=torch.zeros(3, 2))
    with pytest.raises(InputError, match="this agent is not conditional"):
        plain.given(torch.zeros(2))


def test_an_unconditional_agent_is_drawn_from_the_same_random_numbers_as_ever():
    torch.manual_seed(0)
    plain = build_agent(ConditionalMixture().space, scale=3.0, steps=2)
    torch.manual_seed(0)
    conditional = build_agent(ConditionalMixture().space, scale=3.0, steps=2, context_space=ConditionalMixture().space)
    assert not any("context" in name or "network" in name for name in plain.state_dict())
    assert plain.backbone.embed_time[0].weight.equal(conditional.backbone.embed_time[0].weight)
