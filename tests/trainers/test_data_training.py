"""Training on samples alone: the same trainer, judged by the likelihood of samples that it never saw."""

import json
import math

import pytest
import torch

from ebbflow.agents import DenoisingAgent, Origin, TokenNetwork, build_agent, build_bridge_agent
from ebbflow.agents.references.tokens import MaskInOrder, ShuffleOneToken
from ebbflow.envs import Continuous, InputError, Target, Tokens, get_target
from ebbflow.envs.data import Dataset
from ebbflow.trainers import TrainConfig, Trainer, evaluate, exact_law, fit
from ebbflow.trainers.cli import main
from ebbflow.trainers.evaluation import warnings_of
from ebbflow.trainers.suited import suited_config

LAW = torch.tensor([0.30, 0.02, 0.05, 0.13, 0.05, 0.25, 0.15, 0.05])  # of three bits
ENTROPY = -(LAW * LAW.log()).sum().item()
BITS = Tokens(length=3, vocabulary=2)


def bits(n=4000, held_out=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = BITS.all_states()[torch.multinomial(LAW, n + held_out, replacement=True, generator=generator)]
    return Dataset(rows[:n], rows[n:], space=BITS, name="bits")


def normal(n=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * n, 2, generator=generator) @ torch.tensor([[1.0, 0.0], [0.8, 0.6]]).T
    return Dataset(x[:n], x[n:], name="normal")


NORMAL_ENTROPY = math.log(2 * math.pi * math.e) + math.log(0.6)


def tokens(**changes):
    agent = {"width": 32, **changes.pop("agent", {})}
    return TrainConfig.from_dict({"iterations": 400, "seed": 0, "threads": 1, "agent": agent, **changes})


def rates(config):
    return config.destruction_optimiser.rate, config.destruction_optimiser.table_rate


@pytest.mark.parametrize("objective", ["tlm", "vargrad"])
def test_the_trainer_knows_where_rows_of_each_kind_lie(objective):
    settings = {"steps": 2, "batch_size": 24, "destruction_objective": objective, "agent": {"width": 8}}
    data = Trainer(normal(), TrainConfig.from_dict(settings)).data
    origin = data.draw()["origin"]
    for rows, mask in (("on_policy", origin == Origin.ON_POLICY), ("destroyed", origin >= Origin.REPLAY)):
        expected = torch.zeros(24, dtype=torch.bool)
        expected[data.places[rows]] = True
        assert torch.equal(expected, mask), rows


def test_samples_that_are_not_finite_are_told_at_the_next_look():
    class Broken(Target):
        calls = 0

        def sample(self, n):
            self.calls += 1
            return torch.where(
                torch.arange(2 * n).view(n, 2) == 3, math.inf if self.calls == 3 else 0.0, torch.randn(n, 2)
            )

    trainer = Trainer(Broken(Continuous(2)), TrainConfig.from_dict({"steps": 2, "batch_size": 16}))
    trainer.look_every = 4
    with pytest.raises(InputError, match="samples of target 'Broken': expected finite numbers, got inf"):
        trainer.train(until=6)
    assert trainer.iteration == 4 and trainer.skipped == 1
    assert all(value.isfinite().all() for value in trainer.agent.state_dict().values())


# What is left open ----------------------------------------------------------------------------------------------------


def test_destruction_of_points_is_learned_at_a_tenth_of_the_rate_unless_told_otherwise():
    slow = pytest.approx((3e-4, 3e-4))
    assert rates(suited_config(TrainConfig(), normal())) == slow
    told = TrainConfig.from_dict({"generation_optimiser": {"rate": 1e-2}, "destruction_optimiser": {"table_rate": 0.1}})
    assert rates(suited_config(told, normal())) == pytest.approx((1e-3, 0.1))
    for target in (bits(), get_target("gmm25")):
        assert rates(suited_config(TrainConfig(), target)) == (3e-3, 3e-3)
    bridge = build_bridge_agent(Continuous(2), source=normal(), sigma=1.0, steps=2)
    assert rates(suited_config(TrainConfig(), normal(), bridge)) == (3e-3, 3e-3)
    trainer = Trainer(normal(), TrainConfig.from_dict({"agent": {"width": 8}}))
    groups = trainer.optimisers.optimisers["destruction"].param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([3e-4] * len(groups))
    with pytest.raises(InputError, match=r"generation_optimiser.rate: expected a finite number > 0, got None"):
        TrainConfig.from_dict({"generation_optimiser": {"rate": None}})


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (lambda: get_target("gmm25"), (5, "vargrad", None, "bridge", None)),
        (normal, (5, "maximum_likelihood", "vargrad", "variance_preserving", 2.0)),
        (bits, (3, "random_level", None, "mask_one_random", 2.0)),
    ],
    ids=["density", "numbers", "tokens"],
)
def test_open_settings_suit_the_target(target, expected):
    config = suited_config(TrainConfig(), target())
    found = (config.steps, config.objective, config.destruction_objective)
    assert (*found, config.agent.reference, config.agent.time_grid_power) == expected
    assert suited_config(config, target()) == config


def test_what_is_given_is_kept():
    given = {"steps": 7, "objective": "maximum_likelihood", "destruction_objective": "tlm"}
    agent = {"reference": "shuffle_one_token", "time_grid_power": 1.0}
    rates = {"destruction_optimiser": {"rate": 1e-3, "table_rate": 2e-3}}
    config = TrainConfig.from_dict({**given, **rates, "agent": agent})
    assert suited_config(config, bits()) == config


def test_an_agent_of_the_users_own_says_how_many_steps():
    reference = ShuffleOneToken(BITS, steps=9)
    agent = DenoisingAgent(reference, TokenNetwork(BITS, 9, width=8))
    trainer = Trainer(bits(), tokens(iterations=2), agent=agent)
    trainer.train()
    assert trainer.config.steps == 9 and trainer.config.objective == "random_level"


# What is learned ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"objective": "maximum_likelihood"}], ids=["levels", "paths"])
@pytest.mark.parametrize("reference", ["mask_one_random", "mask_last"])
def test_the_law_of_tokens_is_learned(reference, settings):
    trainer = Trainer(bits(), tokens(agent={"reference": reference}, **settings))
    trainer.train()
    law = exact_law(trainer.evaluated_agent)
    assert (law - LAW).abs().max() < 0.02
    found = evaluate(trainer.evaluated_agent, trainer.target, samples=8000)
    tolerance = 5 * found["log_likelihood_stderr"]
    assert -ENTROPY - 0.03 - tolerance < found["log_likelihood"] < -ENTROPY + tolerance
    assert found["bits_per_dimension"] == pytest.approx(-found["log_likelihood"] / (3 * math.log(2)))
    assert abs(found["train_log_likelihood"] - found["log_likelihood"]) < 0.1
    assert found["sinkhorn"] < 0.02 + 3 * abs(found["sinkhorn_floor"])
    assert trainer.energy_calls == trainer.gradient_calls == 0 and warnings_of(found) == []


def test_a_shuffle_is_learned_too():
    trainer = Trainer(bits(), tokens(agent={"reference": "shuffle_one_token"}, iterations=1000))
    trainer.train()
    assert (exact_law(trainer.evaluated_agent) - LAW).abs().max() < 0.05


@pytest.mark.parametrize("of_destruction", ["vargrad", "tlm"])
def test_the_law_of_numbers_is_learned_and_a_learned_destruction_makes_the_bound_tighter(of_destruction):
    settings = {"iterations": 500, "threads": 1, "steps": 3, "destruction_objective": of_destruction}
    agent = {"width": 32, "compression": None, "features": ["raw"]}
    found = {}
    for variant in ("generation", "adaptive"):
        config = TrainConfig.from_dict({**settings, "agent": agent})
        config = TrainConfig.from_dict(
            config.to_dict() | {"agent": config.to_dict()["agent"] | variant_of(config, variant)}
        )
        trainer = Trainer(normal(), config)
        trainer.train()
        found[variant] = evaluate(trainer.evaluated_agent, trainer.target, samples=8000)["log_likelihood"]
    assert found["generation"] > -NORMAL_ENTROPY - 0.5
    assert found["generation"] + 0.05 < found["adaptive"] < -NORMAL_ENTROPY + 0.05


def variant_of(config, variant):
    from dataclasses import asdict

    return asdict(config.agent.variant(variant))


def test_log_ratios_are_compared_among_the_paths_of_a_sample():
    settings = {"batch_size": 12, "paths_per_sample": 4, "agent": {"width": 8}}
    fast = {"destruction_optimiser": {"rate": 3e-3, "table_rate": 3e-3}}
    trainer = Trainer(normal(), TrainConfig.from_dict(settings | fast))
    trainer.train(until=20)  # an untrained agent has the same log-ratio on all paths
    batch = trainer.data.draw()
    ends = batch["state"][:, -1].reshape(3, 4, 2)
    assert (ends == ends[:, :1]).all() and batch["sample"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    before = trainer.objective(batch)["loss_destruction"].item()
    shifted = batch.clone()
    shifted["log_reward"] = torch.tensor([5.0, -3.0, 40.0]).repeat_interleave(4)  # as unknown log densities would
    assert trainer.objective(shifted)["loss_destruction"].item() == pytest.approx(before, rel=1e-4)


def test_an_objective_that_needs_generated_paths_gets_half_of_the_batch():
    trainer = Trainer(normal(), TrainConfig.from_dict({"batch_size": 12, "destruction_objective": "tlm"}))
    batch = trainer.data.draw()
    assert len(batch) == 12 and (batch["origin"] == 0).sum() == 6 and (batch["log_reward"] == 0).all()


def test_classes_are_learned_as_contexts():
    pytest.importorskip("sklearn")
    from ebbflow.envs.data.digits import digits

    trainer = Trainer(
        digits(labelled=True), TrainConfig.from_dict({"iterations": 3, "batch_size": 16, "agent": {"width": 8}})
    )
    trainer.train()
    context = torch.eye(10)[3]
    agent = trainer.evaluated_agent.given(context)
    assert agent.generate(5)["state"].shape == (5, 6, 64)


def test_samples_of_double_precision_are_taken():
    class Doubles(Target):
        def sample(self, n):
            return torch.randn(n, 2, dtype=torch.float64)

    for reference in (None, "noise_preserving"):
        config = TrainConfig.from_dict(
            {"iterations": 2, "batch_size": 8, "agent": {"width": 8, "reference": reference}}
        )
        Trainer(Doubles(Continuous(2)), config).train()


def test_labelled_samples_are_judged_each_at_its_own_context():
    pytest.importorskip("sklearn")
    from ebbflow.envs.data.digits import digits_binary
    from ebbflow.trainers.data_likelihood import bounds_of_samples, likelihood_numbers

    target = digits_binary(labelled=True)
    trainer = Trainer(target, tokens(iterations=30, batch_size=64, objective="maximum_likelihood"))
    trainer.train()
    agent = trainer.evaluated_agent
    torch.manual_seed(0)
    found = likelihood_numbers(agent, target, 2000)
    by_class = [
        bounds_of_samples(agent, target.held_out[rows], target.held_out_contexts[rows])
        for rows in (target.held_out_contexts.argmax(-1) == k for k in range(10))
    ]
    assert sum(map(len, by_class)) == len(target.held_out)
    assert torch.cat(by_class).mean().item() == pytest.approx(found["log_likelihood"], abs=2.0)
    assert evaluate(agent, target, samples=400)["log_likelihood"] == pytest.approx(found["log_likelihood"], abs=2.0)


def test_bounds_in_parts_are_those_of_all(monkeypatch):
    from ebbflow.trainers import data_likelihood

    trainer = Trainer(bits(), tokens(iterations=60))
    trainer.train()
    x = bits().held_out[:1000]
    whole = data_likelihood.bounds_of_samples(trainer.agent, x)
    monkeypatch.setattr(data_likelihood, "_NUMBERS_PER_CHUNK", 100)
    parts = data_likelihood.bounds_of_samples(trainer.agent, x)
    assert len(parts) == 1000 and abs((whole.mean() - parts.mean()).item()) < 0.15
    assert len(data_likelihood.bounds_of_samples(trainer.agent, x[:3])) == 3


# Interruption ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [bits, normal], ids=["tokens", "numbers"])
def test_a_run_goes_on_bit_for_bit(data):
    config = TrainConfig.from_dict({"iterations": 8, "batch_size": 16, "agent": {"width": 8}})
    whole = Trainer(data(), config)
    whole.train()
    part = Trainer(data(), config)
    part.train(until=4)
    state = part.state_dict()
    rest = Trainer(data(), config)
    rest.load_state_dict(state)
    rest.train()
    for name, value in whole.agent.state_dict().items():
        assert torch.equal(value, rest.agent.state_dict()[name]), name


# What does not fit ----------------------------------------------------------------------------------------------------


class Broken(Target):
    def __init__(self, rows, space):
        super().__init__(space, name="broken")
        self.rows = rows

    def sample(self, n):
        return self.rows[:1].expand(n, *self.rows.shape[1:])


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (normal, {"objective": "vargrad"}, "objective: vargrad needs a log density"),
        (normal, {"objective": "random_level"}, "objective: random_level needs an agent that guesses"),
        (normal, {"paths_per_sample": 300}, "paths_per_sample: expected at most 256"),
        (
            normal,
            {"local_search": {"kind": "mala"}},
            "local_search.kind: expected 'none', for data have no log density",
        ),
        (normal, {"path_cost": "math:fabs", "destruction_objective": "tlm"}, "path_cost: expected none"),
        (bits, {"steps": 5}, "steps: mask_one_random masks one token a step, so expected 3, got 5"),
        (bits, {"agent": {"reference": "bridge"}}, "reference: expected one of .* for tokens, got 'bridge'"),
        (bits, {"objective": "trajectory_balance"}, "objective: trajectory_balance needs a log density"),
        (
            lambda: Broken(torch.zeros(1, 3), Continuous(2)),
            {},
            r"'broken': expected floating .* \[n, 2\], got \[256, 3\]",
        ),
        (
            lambda: Broken(torch.tensor([[0.0, math.nan]]), Continuous(2)),
            {},
            "'broken': expected finite numbers, got nan",
        ),
        (lambda: Broken(torch.tensor([[0, 1, 2]]), BITS), {}, "'broken': expected tokens from 0 to 1, got 2"),
        (lambda: Broken(torch.zeros(1, 3), BITS), {}, "expected tokens .* of int64"),
    ],
)
def test_what_does_not_fit_is_named(target, settings, message):
    with pytest.raises(InputError, match=message):
        Trainer(target(), TrainConfig.from_dict({"iterations": 2, **settings})).train()


def test_a_target_with_neither_is_refused():
    with pytest.raises(InputError, match="training without a log density needs exact samples"):
        Trainer(Target(Continuous(2), name="nothing"), TrainConfig())


def test_random_levels_need_samples():
    agent = DenoisingAgent(MaskInOrder(BITS, [2, 0, 1]), TokenNetwork(BITS, 3, width=8))
    with pytest.raises(InputError, match="random_level"):
        Trainer(get_target("gmm25"), TrainConfig.from_dict({"objective": "random_level"}))
    assert agent.trains_levels and not build_agent(Continuous(2), scale=1.0, steps=2).trains_levels


def test_samples_learned_by_heart_are_told_and_chance_is_not():
    found = {"bits_per_dimension": 2.5, "train_bits_per_dimension": 0.5, "train_log_likelihood": -1.0, "elbo": None}
    found |= {"log_likelihood": -5.0, "log_likelihood_stderr": 0.1}
    (warning,) = warnings_of(found)
    assert "learned by heart" in warning and "2.5" in warning
    assert warnings_of(found | {"log_likelihood_stderr": 1.0}) == []


def test_what_guesses_numbers_learns_from_samples_alone():
    with pytest.raises(InputError, match=r"agent\.reference: noise_preserving learns from samples"):
        Trainer(get_target("gmm25"), TrainConfig.from_dict({"agent": {"reference": "noise_preserving"}}))


# From outside ---------------------------------------------------------------------------------------------------------


def test_the_command_line_trains_on_data(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    import numpy

    monkeypatch.chdir(tmp_path)
    few = ["--iterations", "4", "--log-every", "2", "--evaluation-samples", "40", "--agent.width", "8"]
    assert main(["train", "digits-masked", *few]) == 0
    run = tmp_path / "runs/digits-masked"
    assert "bits per dimension, held out" in capsys.readouterr().out
    assert {path.name for path in (run / "figures").iterdir()} == {"samples.png", "paths.png", "training.png"}
    config = json.loads((run / "config.json").read_text())
    assert (config["target"], config["steps"], config["objective"]) == ("digits-tokens", 64, "random_level")
    assert main(["sample", str(run), "-n", "7", "--out", "x.npz"]) == 0
    with numpy.load("x.npz") as saved:
        assert saved["x"].shape == (7, 64) and saved["x"].dtype == numpy.int64 and "log_weight" not in saved
    assert main(["evaluate", str(run), "--json", "--samples", "40"]) == 0
    assert main(["report", str(run)]) == 0
    assert "bits_per_dimension" in (run / "metrics.csv").read_text()
    assert main(["train", "--out", "late", *few, "digits-masked"]) == 0  # a preset's name, wherever it stands
    assert json.loads((tmp_path / "late/config.json").read_text())["target"] == "digits-tokens"
    assert main(["train", "digits-masked", "--preset", "digits-noise"]) == 2
    assert "'digits-masked' is a preset itself" in capsys.readouterr().err


def test_text_is_drawn_as_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("the tide goes out, the tide comes in. " * 40)
    words = ["--dim", "8", "--iterations", "2", "--evaluation-samples", "10", "--agent.width", "8", "--out", "run"]
    assert main(["train", "mine.txt", *words]) == 0
    assert (tmp_path / "run/figures/paths.png").stat().st_size > 5_000


def test_fit_takes_data():
    result = fit(bits(), iterations=3, agent={"width": 8})
    assert result.sample(5).shape == (5, 3) and result.evaluation["bits_per_dimension"] > 0
    with pytest.raises(InputError, match="weighted_sample needs a log density"):
        result.weighted_sample(5)
