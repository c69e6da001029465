"""Conditional targets through objectives, trainer, evaluation, `fit` and the command line."""

import json
import math

import numpy
import pytest
import torch
from tensordict import TensorDict

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.agents.origin import Origin
from ebbflow.buffers import Anchors, context_keys
from ebbflow.envs import ConditionalMixture, Continuous, InputError, Target, get_target
from ebbflow.trainers import TrainConfig, fit
from ebbflow.trainers.checkpoint import load_checkpoint, save_checkpoint
from ebbflow.trainers.cli import main
from ebbflow.trainers.context_batch import contexts_of_new_rows
from ebbflow.trainers.evaluation import as_json, evaluate, live_numbers
from ebbflow.trainers.objectives import JointLoss, Residual, ReverseKLLogDerivative, TrajectoryBalance, VarGrad
from ebbflow.trainers.objectives.context_centre import group_mean, group_median
from ebbflow.trainers.trainer import Trainer

SMALL = {"target": "conditional-gmm", "contexts_per_batch": 4, "evaluation_contexts": 3, "anchors": {"contexts": 3}}


class ScaledNormal(Target):
    """N(0, 4·I) times exp(c): a Brownian bridge of rate 2 is exact for every context, with log Z(c) = c."""

    def __init__(self):
        super().__init__(Continuous(2), scale=2.0, context_space=Continuous(1), name="scaled")

    def log_prob(self, x, context):
        return -0.125 * x.square().sum(-1) - math.log(2 * math.pi * 4.0) + context[..., 0]

    def sample(self, n, context):
        return 2.0 * torch.randn(n, 2, dtype=context.dtype)

    def sample_context(self, n):
        return 5.0 * torch.randn(n, 1)

    def conditional_log_z(self, context):
        return context[..., 0]


def exact_agent(target):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:  # untrained, both policies are the reference and do not see the context
        return build_agent(
            target.space,
            scale=2.0,
            steps=3,
            config=AgentConfig(width=8, compression=None),
            context_space=target.context_space,
        )
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("bound", [math.inf, 10.0])
def test_exact_policies_have_no_loss_though_log_z_differs_from_context_to_context(bound):
    torch.manual_seed(0)
    target = ScaledNormal()
    agent = exact_agent(target)
    context = target.sample_context(6).double().repeat_interleave(4, dim=0)
    paths = agent.generate(24, target, context=context)
    losses = JointLoss(agent, VarGrad(), target_networks="none", residual_bound=bound)(paths)
    losses = losses.detach()
    assert abs(float(losses["loss_generation"])) < 1e-20 and abs(float(losses["loss_destruction"])) < 1e-20
    torch.testing.assert_close(losses["log_ratio"], -context[:, 0])
    whole = losses["log_ratio"] - losses["log_ratio"].mean()
    assert float(whole.square().mean()) > 1.0  # a centre over the batch would not have noticed
    wrong = JointLoss(agent, TrajectoryBalance(), target_networks="none", residual_bound=bound)(paths).detach()
    assert float(wrong["loss_generation"]) > 1.0
    for right in (False, True):  # trajectory balance is at its minimum once log Z(c) is known
        if right:

            class Identity(torch.nn.Module):
                def forward(self, context):
                    return context

            agent = exact_agent(target)
            agent.log_z_network = Identity()
            losses = JointLoss(agent, TrajectoryBalance(), target_networks="none", residual_bound=bound)(paths).detach()
            assert float(losses["loss_generation"]) < 1e-20 and float(losses["loss_log_z"]) < 1e-20


def test_without_contexts_the_centre_is_that_of_one_group():
    torch.manual_seed(0)
    values, weight = torch.randn(20, dtype=torch.float64) * 20, torch.rand(20, dtype=torch.float64)
    one = torch.zeros(20, dtype=torch.long)
    for bound in (math.inf, 3.0):
        for kind in ("huber", "log_cosh"):
            residual = Residual(kind, bound)
            whole = residual.center(values, weight)
            torch.testing.assert_close(residual.center(values, weight, one), whole.expand(20))
    group = torch.arange(20) % 3
    for k in range(3):
        own = group == k
        torch.testing.assert_close(group_median(values, group)[own], values[own].median().expand(int(own.sum())))
        mean = (values[own] * weight[own]).sum() / weight[own].sum()
        torch.testing.assert_close(group_mean(values, weight, group)[own], mean.expand(int(own.sum())))


def test_new_rows_share_the_contexts_of_remembered_ones():
    torch.manual_seed(0)
    remembered = torch.randn(3, 2)[torch.tensor([0, 1, 0, 2, 2])]
    contexts = contexts_of_new_rows(ConditionalMixture(), 20, fresh=2, remembered=remembered)
    keys, counts = context_keys(contexts).unique(return_counts=True)
    assert len(keys) == 5 and counts.tolist() == [4] * 5
    assert torch.isin(context_keys(remembered), keys).all()

    class Broken(ConditionalMixture):
        def sample_context(self, n):
            return torch.full((n, 2), math.nan)

    with pytest.raises(InputError, match=r"sample_context\(2\) must be finite"):
        contexts_of_new_rows(Broken(), 4, fresh=2)


def test_every_row_of_a_batch_meets_others_of_its_context(settings, monkeypatch):
    seen = []
    config = TrainConfig.from_dict(settings(**SMALL, batch_size=32, iterations=6))
    trainer = Trainer(get_target("conditional-gmm"), config)
    forward = trainer.objective.forward

    def watch(batch, *given):
        seen.append(batch["context"])
        return forward(batch, *given)

    monkeypatch.setattr(trainer.objective, "forward", watch)
    trainer.train()
    assert len(seen) == 6
    for context in seen:
        _, counts = context_keys(context).unique(return_counts=True)
        assert context.shape == (32, 2) and len(counts) <= 5 and int(counts.min()) >= 2
    assert trainer.replay._columns()["context"].shape[1] == 2
    assert trainer.anchors.contexts.unique(dim=0).shape == (3, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "trajectory_balance", "replay": {"priority": "loss", "beta": 0.5, "contents": "path"}},
        {"agent": {"langevin": True, "features": ["raw", "score"], "shared_backbone": False}, "dtype": "float64"},
    ],
)
def test_a_conditional_run_resumes_bit_for_bit(settings, tmp_path, changes):
    config = TrainConfig.from_dict(settings(**(SMALL | changes)))
    whole = Trainer(get_target("conditional-gmm"), config)
    whole.train()
    first = Trainer(get_target("conditional-gmm"), config)
    first.train(until=7)
    save_checkpoint(tmp_path, first.state_dict(), config.to_dict())
    second = Trainer(get_target("conditional-gmm"), config)
    second.load_state_dict(load_checkpoint(tmp_path)[0])
    second.train()
    for one, two in zip(whole.evaluated_agent.parameters(), second.evaluated_agent.parameters(), strict=True):
        assert one.equal(two)
    assert whole.energy_calls == second.energy_calls
    one, two = whole.replay.state_dict(), second.replay.state_dict()
    assert all(one[key].equal(two[key]) for key in ("context", "state", "log_ratio"))


def test_exact_samples_at_some_contexts_can_be_the_anchors(settings):
    values = settings(**SMALL)
    values["anchors"] |= {"samples": "exact", "count": 30, "contexts": 3}
    trainer = Trainer(get_target("conditional-gmm"), TrainConfig.from_dict(values))
    trainer.train()
    anchors = trainer.anchors
    assert len(anchors) == 30 and len(anchors.contexts.unique(dim=0)) == 3
    torch.testing.assert_close(anchors.log_reward, trainer.target(anchors.states, anchors.contexts))


@pytest.mark.parametrize("kind", ["mala", "ebb_and_flow"])
def test_local_search_moves_states_within_their_context(settings, kind):
    config = TrainConfig.from_dict(
        settings(**SMALL, local_search={"kind": kind, "every": 2, "moves": 2, "states": 6, "anchors": 6})
    )
    trainer = Trainer(get_target("conditional-gmm"), config)
    trainer.train()
    assert trainer.local_search.energy_calls > 0 and trainer.local_search.acceptance > 0
    rows = trainer.replay._columns()
    assert trainer.replay.share_of(Origin.LOCAL_SEARCH) > 0
    moved = rows["log_reward"].isfinite()  # the others hold places
    assert moved.sum() == len(trainer.replay)
    torch.testing.assert_close(trainer.target(rows["state"], rows["context"])[moved], rows["log_reward"][moved])
    anchors = trainer.anchors
    torch.testing.assert_close(trainer.target(anchors.states, anchors.contexts), anchors.log_reward)


def test_evaluation_is_the_mean_over_contexts_and_exact_for_an_exact_agent():
    target = ScaledNormal().double()
    agent = exact_agent(target)
    contexts = torch.tensor([[0.0], [3.0], [-9.0]], dtype=torch.float64)
    found = evaluate(agent, target, samples=90, contexts=contexts, seconds=2.0)
    assert found["samples"] == 90 and found["seconds"] == 2.0
    assert [one["context"] for one in found["contexts"]] == contexts.tolist()
    for one, truth in zip(found["contexts"], (0.0, 3.0, -9.0), strict=True):
        assert one["true_log_z"] == truth
        for key in ("elbo", "eubo", "log_z"):
            assert one[key] == pytest.approx(truth, abs=1e-9)
        assert one["ess_reverse"] == pytest.approx(1.0)
    for key in ("elbo", "eubo", "log_z", "true_log_z"):
        assert found[key] == pytest.approx(-2.0, abs=1e-9)
    assert json.loads(as_json(found))["contexts"][2]["samples"] == 30
    assert target.energy_calls == 0
    drawn = evaluate(agent, target, samples=20, contexts=4, seed=3)
    again = evaluate(agent, target, samples=20, contexts=4, seed=3)
    assert drawn["contexts"] == again["contexts"] and len({one["context"][0] for one in drawn["contexts"]}) == 4
    assert live_numbers(agent, target, 32)["ess"] == pytest.approx(1.0)
    with pytest.raises(InputError, match="has contexts in Continuous"):
        evaluate(build_agent(target.space, scale=2.0, steps=3), target)


def test_a_short_training_learns_log_z_of_the_context():
    result = fit(
        "conditional-gmm",
        steps=3,
        iterations=150,
        batch_size=128,
        contexts_per_batch=16,
        evaluation_samples=1600,
        evaluation_contexts=4,
        agent={"width": 32},
        anchors={"contexts": 8, "count": 800, "temperatures": 20},
        seed=0,
    )
    for one in result.evaluation["contexts"]:
        assert one["log_z"] == pytest.approx(one["true_log_z"], abs=0.6)
    context = torch.tensor([[0.9, 0.0], [-0.9, 0.0]])
    learned = result.trainer.agent.log_z_given(context).detach()
    assert float(learned[0] - learned[1]) > 0.5  # on its way to 7.2
    x, log_weight = result.weighted_sample(400, context[0])
    assert x.shape == (400, 2)
    assert float(log_weight.logsumexp(0)) - math.log(400) == pytest.approx(3.6, abs=0.6)
    with pytest.raises(InputError, match="conditional"):
        result.sample(3)


def test_fit_takes_a_plain_function_of_states_and_contexts():
    contexts = torch.linspace(-1, 1, 9).unsqueeze(1)
    result = fit(
        lambda x, c: -0.5 * (x - c).square().sum(-1),
        dim=1,
        contexts=contexts,
        steps=2,
        iterations=5,
        batch_size=16,
        contexts_per_batch=4,
        evaluation_samples=40,
        agent={"width": 8},
        anchors={"count": 32, "contexts": 4, "temperatures": 3},
    )
    assert result.sample(3, [0.5]).shape == (3, 1)
    assert {one["context"][0] for one in result.evaluation["contexts"]} <= set(contexts[:, 0].tolist())
    with pytest.raises(InputError, match="contexts: expected a tensor"):
        fit(lambda x, c: x, dim=1, contexts=torch.zeros(3))
    with pytest.raises(InputError, match="contexts: target 'gmm25' has its own"):
        fit("gmm25", contexts=contexts)


def test_settings_that_do_not_fit_are_named(settings):
    target = get_target("conditional-gmm")
    with pytest.raises(InputError, match="contexts_per_batch: expected at most half of batch_size = 16"):
        Trainer(target, TrainConfig.from_dict(settings(contexts_per_batch=9)))
    for name in ("contexts_per_batch", "evaluation_contexts"):
        with pytest.raises(InputError, match=f"{name}: expected a whole number >= 1"):
            TrainConfig.from_dict({name: 0})
    with pytest.raises(InputError, match=r"anchors\.contexts: expected a whole number >= 1"):
        TrainConfig.from_dict({"anchors": {"contexts": 0}})
    with pytest.raises(InputError, match=r"anchors\.samples: a file has no contexts"):
        Trainer(target, TrainConfig.from_dict(settings(**SMALL | {"anchors": {"samples": "mine.npy"}}))).prepare()
    plain = Anchors(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(InputError, match="anchors: expected to have contexts for a conditional target"):
        Trainer(target, TrainConfig.from_dict(settings(**SMALL)), anchors=plain)


def test_the_command_line_trains_and_samples_at_contexts(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.json").write_text(json.dumps(settings(**SMALL)))
    assert main(["train", "--preset", "small.json", "--out", "run"]) == 0
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert len(evaluation["contexts"]) == 3 and evaluation["true_log_z"] is not None
    assert (tmp_path / "run" / "figures" / "samples.png").is_file()
    assert main(["sample", "run", "-n", "5", "--context", "0.5,-1"]) == 0
    with numpy.load("samples.npz") as file:
        assert file["x"].shape == (5, 2) and file["context"].tolist() == [[0.5, -1.0]] * 5
    numpy.save("contexts.npy", numpy.array([[0.0, 0.0], [1.0, 1.0]]))
    assert main(["sample", "run", "-n", "3", "--context", "contexts.npy"]) == 0
    with numpy.load("samples.npz") as file:
        assert file["x"].shape == (6, 2) and file["context"][::3].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    capsys.readouterr()
    for words, message in (
        ([], "is conditional: expected 2 numbers"),
        (["--context", "1,2,3"], "expected a tensor [..., 2]"),
        (["--context", "one"], "expected numbers with commas"),
        (["--context", "none.npy"], "got 'none.npy'"),
        (["--context", "nan,0"], "expected finite numbers"),
        (["--context", "contexts.npy", "--out", "s.nc"], "several contexts"),
    ):
        assert main(["sample", "run", *words]) == 2
        assert message in capsys.readouterr().err


def test_groups_of_a_weighted_batch_keep_their_gradient_in_expectation():
    """Within-context centring is the gradient of the mean within-context variance: a finite difference says so."""
    torch.manual_seed(0)
    target = ConditionalMixture().double()
    agent = exact_agent(target)
    context = target.sample_context(5).double().repeat_interleave(3, dim=0)
    paths = agent.generate(15, target, context=context)
    objective = JointLoss(agent, VarGrad(), target_networks="none")
    weight = agent.generation.readout.linear.weight

    def loss():
        log_ratio = agent.log_ratio(paths).unflatten(0, (5, 3))
        return (log_ratio - log_ratio.mean(1, keepdim=True)).square().mean()

    (expected,) = torch.autograd.grad(loss(), [weight])
    found = objective(TensorDict(dict(paths.items()), batch_size=[15]))
    parameter = objective.agent_params.get(("generation", "readout", "linear", "weight"))
    (gradient,) = torch.autograd.grad(found["loss_generation"], [parameter])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("objective", "destruction"),
    [
        ("detailed_balance", "tlm"),
        ("sub_trajectory_balance", None),
        ("reverse_kl", "vargrad"),
        ("reverse_kl_log_derivative", "tlm"),
        ("maximum_likelihood", "vargrad"),
    ],
)
def test_every_objective_trains_a_conditional_agent(settings, objective, destruction):
    config = TrainConfig.from_dict(settings(**SMALL, objective=objective, destruction_objective=destruction))
    trainer = Trainer(get_target("conditional-gmm"), config)
    before = {name: p.clone() for name, p in trainer.agent.named_parameters() if "embed_context" in name}
    trainer.train()
    assert trainer.iteration == 12 and trainer.skipped == 0
    after = dict(trainer.agent.named_parameters())
    moved = [name for name, value in before.items() if not value.equal(after[name])]
    assert len(moved) == len(before)


def test_the_log_derivative_has_a_baseline_for_each_context():
    torch.manual_seed(0)
    target = ScaledNormal()
    agent = exact_agent(target)
    context = target.sample_context(6).double().repeat_interleave(4, dim=0)
    paths = agent.generate(24, target, context=context)
    paths["origin"] = torch.full((24,), int(Origin.ON_POLICY))
    objective = JointLoss(agent, ReverseKLLogDerivative(), target_networks="none")
    objective(paths)["loss_generation"].backward()
    gradient = objective.agent_params.get(("generation", "readout", "linear", "bias")).grad
    assert float(gradient.abs().max()) < 1e-10  # all advantages are zero, though log Z differs
