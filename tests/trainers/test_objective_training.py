"""Every objective, for each policy that it can train: it learns, from the rows it asks for, or is refused clearly."""

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from ebbflow.agents import AgentConfig, Origin, build_agent
from ebbflow.envs import CallableTarget, Continuous, InputError, get_target
from ebbflow.envs.targets.mixtures import GaussianMixture
from ebbflow.trainers.evaluation import live_numbers
from ebbflow.trainers.objectives import (
    OBJECTIVES,
    JointLoss,
    MaximumLikelihood,
    PathObjective,
    PathTerms,
    Residual,
    ReverseKL,
    TrajectoryLikelihood,
    VarGrad,
    get_objective,
)
from ebbflow.trainers.trainer import Trainer

FIXED = {"destruction_mean": "reference", "destruction_variance": "reference"}
PAIRS = [(policy, name) for name, kind in OBJECTIVES.items() for policy in kind.trains]


def two_modes():
    return GaussianMixture([[-2.0], [2.0]], std=0.5, weights=[0.3, 0.7])


def normal(x):
    return -0.5 * x.square().sum(-1)


def trainer_of(tiny, generation="vargrad", destruction=None, target=None, **settings):
    config = tiny(objective=generation, destruction_objective=destruction, **settings)
    return Trainer(target or two_modes(), config)


# Each learns ----------------------------------------------------------------------------------------------------------


def width(trainer):
    numbers = live_numbers(trainer.evaluated_agent, trainer.target, 2000, seed=0)
    return numbers["eubo"] - numbers["elbo"]


@pytest.fixture
def trained_width(tiny):
    """Sandwich width after a short training, in which the rate of a policy that stands still is next to nothing."""

    def train(generation, destruction, still=None):
        rates = {policy: 1e-9 if policy == still else 1e-2 for policy in ("generation", "destruction")}
        trainer = trainer_of(
            tiny,
            generation,
            destruction,
            steps=2,
            iterations=100,
            batch_size=64,
            average_decay=0.9,
            target_rate=0.2,
            agent={"width": 16},
            anchors={"samples": "exact", "count": 500, "share": 1.0},
            **{f"{policy}_optimiser": {"rate": r, "table_rate": r, "warmup": 5} for policy, r in rates.items()},
        )
        trainer.train()
        assert trainer.skipped == 0
        return width(trainer)

    return train


@pytest.fixture(scope="module")
def found():
    """Widths that several tests compare with."""
    return {}


@pytest.mark.parametrize(("policy", "name"), PAIRS)
def test_each_policy_learns(policy, name, trained_width, found):
    """Beside VarGrad for the other policy, the sandwich is much narrower than where this policy stands still."""
    if policy not in found:
        found[policy] = trained_width("vargrad", "vargrad", still=policy)
    after = trained_width(*((name, "vargrad") if policy == "generation" else ("vargrad", name)))
    assert 0 < after < {"generation": 0.7, "destruction": 0.95}[policy] * found[policy]


# Rows -----------------------------------------------------------------------------------------------------------------


def batches(trainer):
    """The batches that the objective is given while the trainer trains."""
    seen = []
    trainer.objective.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    trainer.train()
    return seen


def counts(batch):
    origin = batch["origin"]
    return {one.name: int((origin == one).sum()) for one in Origin if (origin == one).any()}


MEMORY = {"REPLAY": 4, "DATA": 4}


@pytest.mark.parametrize(
    ("generation", "destruction", "new"),
    [
        ("vargrad", "vargrad", {"OFF_POLICY": 8}),
        ("maximum_likelihood", "vargrad", {"OFF_POLICY": 8}),
        ("reverse_kl", "vargrad", {"ON_POLICY": 4, "OFF_POLICY": 4}),
        ("vargrad", "tlm", {"ON_POLICY": 4, "OFF_POLICY": 4}),
        ("reverse_kl_log_derivative", "tlm", {"ON_POLICY": 8}),
        ("reverse_kl", None, {"ON_POLICY": 8}),
    ],
)
def test_where_the_rows_come_from(generation, destruction, new, tiny):
    """While it explores, new rows are unwidened for those who need that; afterwards all are."""
    trainer = trainer_of(tiny, generation, destruction, iterations=6, exploration={"until": 0.5})
    seen = batches(trainer)
    for batch in seen[1:3]:
        assert counts(batch) == new | MEMORY
    for batch in seen[3:]:
        assert counts(batch) == {"ON_POLICY": 8} | MEMORY
    follows = generation == "reverse_kl"
    for batch in seen:
        assert batch["state"].requires_grad == batch["log_reward"].requires_grad == follows
    assert trainer.replay.state_dict()["state"].requires_grad is False


def test_remembered_paths_are_off_policy(tiny):
    trainer = trainer_of(tiny, iterations=6, replay={"contents": "path"}, exploration={"until": 0.01})
    for batch in batches(trainer)[1:]:
        assert counts(batch) == {"ON_POLICY": 8, "OFF_POLICY": 4, "DATA": 4}


def test_rows_that_an_objective_may_not_use_do_not_matter():
    torch.manual_seed(0)
    target = two_modes()
    agent = build_agent(Continuous(1), scale=2.0, steps=3)
    paths = torch.cat([agent.generate(6, target), agent.destroy(target.sample(6), target)])
    paths["origin"] = torch.tensor(
        [Origin.ON_POLICY] * 4 + [Origin.OFF_POLICY] * 2 + [Origin.REPLAY] * 3 + [Origin.DATA] * 3
    )
    paths["weight"] = torch.rand(12) + 0.5
    other = paths.clone()
    other["state"] = other["state"] + torch.randn_like(other["state"])
    objective = JointLoss(agent, MaximumLikelihood(), TrajectoryLikelihood(), target_networks="none")
    expected = objective(paths)
    for name, used in (
        ("loss_generation", paths["origin"] >= Origin.REPLAY),
        ("loss_destruction", paths["origin"] == 0),
    ):
        mixed = torch.where(used.reshape(-1, 1, 1), paths["state"], other["state"])
        found = objective(paths.clone().set("state", mixed))
        torch.testing.assert_close(found[name], expected[name])
        torch.testing.assert_close(objective(paths[used])[name], expected[name])
        mixed = torch.where(used.reshape(-1, 1, 1), other["state"], paths["state"])
        assert (objective(paths.clone().set("state", mixed))[name] - expected[name]).abs() > 1e-3
    none = objective(paths[4:6])
    assert none["loss_generation"] == none["loss_destruction"] == 0 and none["loss_log_z"] > 0


def test_unmarked_or_undifferentiable_rows_are_refused():
    agent = build_agent(Continuous(1), scale=2.0, steps=3)
    paths = agent.generate(6, two_modes())
    with pytest.raises(InputError, match=r"^TrajectoryLikelihood: learns from on_policy rows, and .* no `origin`"):
        JointLoss(agent, VarGrad(), TrajectoryLikelihood(), target_networks="none")(paths)
    paths["origin"] = torch.full((6,), Origin.ON_POLICY)
    with pytest.raises(InputError, match=r"^state: expected paths that carry a gradient, agent.generate"):
        JointLoss(agent, ReverseKL(), target_networks="none")(paths)
    with torch.no_grad():
        assert JointLoss(agent, ReverseKL(), target_networks="none")(paths)["loss_generation"].isfinite()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_log_z_may_be_one_for_each_row(name):
    """As for conditional targets: a log Z of every row broadcasts as the scalar does, also when rows are picked."""
    torch.manual_seed(0)
    columns = [torch.randn(6), torch.randn(6, 3), torch.randn(6, 3), torch.randn(6)]
    kept = torch.tensor([True, False, True, True, False, True])
    losses = []
    for log_z in (torch.tensor(0.7), torch.full((6,), 0.7)):
        terms = PathTerms(*columns, log_z, Residual(), log_flow=torch.arange(12.0).reshape(6, 2))
        losses.append(torch.stack([get_objective(name).loss_of_paths(t) for t in (terms, terms.of_rows(kept))]))
    torch.testing.assert_close(*losses)
    assert losses[0].isfinite().all() and losses[0][0] != losses[0][1]


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generation": "tb"},
            r"^objective: expected one of \['detailed_balance', .*'tlm', 'trajectory_balance', 'vargrad'\], got 'tb'",
        ),
        ({"destruction": "tb"}, r"^destruction_objective: expected one of \["),
        ({"generation": "tlm"}, r"^objective: expected one that trains generation, but TrajectoryLikelihood trains d"),
        (
            {"generation": "maximum_likelihood"},
            r"^destruction_objective: expected one that trains destruction, but MaximumLikelihood trains generation o",
        ),
        (
            {"destruction": "tlm", "replay": {"share": 1.0}},
            r"^destruction_objective: tlm learns from new paths of the policy itself, of which batch_size = 16 and "
            r"replay.share = 1 leave 1 \(expected >= 2\)",
        ),
        (
            {"generation": "maximum_likelihood", "destruction": "vargrad", "replay": {"share": 0.0}},
            r"^objective: maximum_likelihood learns from destroyed samples, and there are none with replay.share = 0",
        ),
        (
            {
                "generation": "maximum_likelihood",
                "destruction": "vargrad",
                "replay": {"contents": "path"},
                "anchors": {"share": 0.0},
            },
            r"^objective: maximum_likelihood learns from .* replay.contents = path and anchors.share = 0;",
        ),
        (
            {"generation": "reverse_kl", "trunk": "destruction"},
            r"^trunk: expected 'both' or 'generation' with ReverseKL",
        ),
    ],
)
def test_settings_that_leave_nothing_to_learn_from(changes, message, tiny):
    with pytest.raises(InputError, match=message) as caught:
        trainer_of(tiny, **changes)
    assert "\n" not in str(caught.value)


def test_maximum_likelihood_needs_no_other_objective_where_destruction_is_not_learned(tiny):
    trainer = trainer_of(tiny, "maximum_likelihood", agent=FIXED)
    assert set(trainer.objective.objectives) == {"generation"}


def test_a_density_without_gradient_cannot_be_followed(tiny):
    target = CallableTarget(lambda x: normal(x.detach()), 1, name="flat")
    with pytest.raises(InputError, match="target 'flat': log_prob is not differentiable, but its gradient is needed"):
        trainer_of(tiny, "reverse_kl", target=target, anchors={"share": 0.0}).train()
    trainer_of(tiny, "reverse_kl_log_derivative", target=target, iterations=2, anchors={"share": 0.0}).train()


def test_exact_samples_as_anchors(tiny):
    trainer = trainer_of(tiny, anchors={"samples": "exact", "count": 30})
    trainer.train(until=1)
    assert trainer.anchors.states.shape == (30, 1) and trainer.anchors.energy_calls == 30
    with pytest.raises(InputError, match=r"^anchors.samples: exact needs exact samples, but target 'mine' has none"):
        trainer_of(tiny, target=CallableTarget(normal, 1, name="mine"), anchors={"samples": "exact"}).train()


# Cost -----------------------------------------------------------------------------------------------------------------


def test_following_paths_costs_a_gradient_each(tiny):
    trainer = trainer_of(tiny, "reverse_kl", iterations=3, anchors={"share": 0.0}, replay={"share": 0.0})
    trainer.train()
    assert (trainer.energy_calls, trainer.gradient_calls) == (16 + 3 * 16, 3 * 16)


@pytest.mark.parametrize("forward_looking", [False, True])
def test_a_forward_looking_flow_costs_a_call_for_each_state_between(forward_looking, tiny):
    calls = []
    target = CallableTarget(lambda x: (calls.append(len(x)), normal(x))[1], 1)
    settings = {"agent": {"forward_looking": forward_looking}, "exploration": {"inverse_temperature": 0.5}}
    trainer = trainer_of(tiny, "detailed_balance", target=target, iterations=3, replay={"share": 0.0}, **settings)
    seen = batches(trainer)
    assert trainer.energy_calls == sum(calls) == 16 + 3 * 16 * (3 if forward_looking else 1)  # T = 3
    for i, batch in enumerate(seen):
        beta = 0.5 ** max(0.0, 1 - i / 3 / 0.5)
        assert torch.allclose(batch["log_reward"], beta * normal(batch["state"][:, -1]))
        if forward_looking:
            assert torch.allclose(batch["log_density"], beta * normal(batch["state"][:, 1:-1]))


def test_one_step_has_nothing_between(tiny):
    trainer = trainer_of(tiny, "detailed_balance", steps=1, iterations=2, agent={"forward_looking": True})
    trainer.train()
    assert trainer.skipped == 0


# Switches -------------------------------------------------------------------------------------------------------------


def test_which_side_sees_a_target_network():
    torch.manual_seed(0)
    small = AgentConfig(width=8)
    agent, other = (build_agent(Continuous(1), scale=2.0, steps=3, config=small) for _ in range(2))
    for one in (agent, other):
        for parameter in one.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    paths = agent.generate(9, two_modes())
    found = {}
    for side in ("both", "generation", "destruction", "none"):
        module = JointLoss(copy.deepcopy(agent), VarGrad(), target_networks=side)
        if module.use_targets:
            SoftUpdate(module, tau=0.1)  # without which TorchRL warns
            module.target_agent_params.data.update_(TensorDict.from_module(other).data)
        with torch.no_grad():
            found[side] = module(paths)
    for side, lagging in (("generation", "loss_generation"), ("destruction", "loss_destruction")):
        fixed = {"loss_generation": "loss_destruction", "loss_destruction": "loss_generation"}[lagging]
        assert found[side][lagging] == found["both"][lagging] != found["none"][lagging]
        assert found[side][fixed] == found["none"][fixed] != found["both"][fixed]


@pytest.mark.parametrize(
    ("trunk", "name"),
    [
        *((trunk, "vargrad") for trunk in ("both", "generation", "destruction")),
        *((trunk, "reverse_kl") for trunk in ("both", "generation")),
    ],
)
def test_who_trains_a_shared_trunk(trunk, name):
    torch.manual_seed(0)
    agent = build_agent(Continuous(1), scale=2.0, steps=3)
    for parameter in agent.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    paths = agent.generate(9, two_modes(), differentiable=True)
    paths["origin"] = torch.full((9,), Origin.ON_POLICY)
    losses = JointLoss(agent, get_objective(name), target_networks="none", trunk=trunk)(paths)
    free = JointLoss(agent, get_objective(name), target_networks="none")(paths)
    for policy in ("generation", "destruction"):
        loss = losses[f"loss_{policy}"]
        assert loss == free[f"loss_{policy}"]  # values do not change, only who learns from them
        gradients = torch.autograd.grad(
            loss, list(agent.backbone.parameters()), retain_graph=True, materialize_grads=True
        )
        assert any(bool(g.any()) for g in gradients) == (trunk in ("both", policy)), policy
        own = torch.autograd.grad(loss, getattr(agent, policy).readout.linear.weight, retain_graph=True)[0]
        assert own.any()


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_and_keys():
    for name, kind in OBJECTIVES.items():
        assert type(get_objective(name)) is kind and issubclass(kind, PathObjective)
    assert get_objective("sub_trajectory_balance", subtb_lambda=math.inf).subtb_lambda == math.inf
    agent = build_agent(Continuous(1), scale=2.0, steps=3)
    module = JointLoss(agent, VarGrad(), target_networks="none")
    assert set(module(agent.generate(4, two_modes())).keys()) == set(module.out_keys)
    for wrong in ("vargrad", VarGrad):
        with pytest.raises(InputError, match=r"^destruction_objective: expected an objective, got "):
            JointLoss(agent, VarGrad(), wrong)
    with pytest.raises(InputError, match=r"^target_networks: expected one of "):
        JointLoss(agent, VarGrad(), target_networks="all")
    with pytest.raises(InputError, match=r"^trunk: expected one of "):
        JointLoss(agent, VarGrad(), trunk="none")


def test_the_help_names_every_objective(ebbflow):
    shown = ebbflow("train", "--help").out
    for name in OBJECTIVES:
        assert name in shown, name


def test_a_resumed_run_goes_on_bit_for_bit(tiny):
    """With the flow, its optimiser and followed paths in the state."""
    runs = []
    for stop in (None, 3):
        trainer = trainer_of(tiny, "sub_trajectory_balance", "tlm", iterations=6, target=get_target("gmm25"))
        if stop is not None:
            trainer.train(until=stop)
            state = copy.deepcopy(trainer.state_dict())
            trainer = trainer_of(tiny, "sub_trajectory_balance", "tlm", iterations=6, target=get_target("gmm25"))
            trainer.load_state_dict(state)
        trainer.train()
        runs.append(trainer.agent.state_dict())
    assert any(name.startswith("flow.") for name in runs[0])
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
