"""Runs trained together are the runs alone."""

import math

import pytest
import torch

from ebbflow.envs import get_target
from ebbflow.envs.errors import InputError
from ebbflow.envs.spaces import Continuous
from ebbflow.envs.target import Target
from ebbflow.trainers.callbacks import Callback
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.many_runs import ManyRuns
from ebbflow.trainers.trainer import Trainer

ITERATIONS = 5


class HalfPlane(Target):
    """No density on the left, so that a memory may remain empty while another one fills."""

    def __init__(self, edge=1.0):
        super().__init__(Continuous(2), scale=1.0, name="half-plane")
        self.edge = edge

    def log_prob(self, x):
        return torch.where(x[..., 0] > self.edge, -0.5 * (x - 2.0).square().sum(-1), -math.inf)


class SpoilOnce(Callback):
    """Makes the loss of one iteration infinite: for so long the anchors have an infinite log density."""

    def __init__(self, at):
        self.at = at

    def on_iteration(self, trainer, losses):
        if trainer.iteration == self.at:
            self.kept = trainer.anchors.log_reward.clone()
            trainer.anchors.log_reward.fill_(math.inf)
        elif trainer.iteration == self.at + 1:
            trainer.anchors.log_reward.copy_(self.kept)


def tensors(state, prefix=""):
    """All tensors and numbers of a state, by path, except how long it took."""
    found = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= tensors(value, f"{prefix}{key}/")
        elif key != "seconds":
            found[f"{prefix}{key}"] = value
    return found


def assert_equal_runs(one, other, tolerance=1e-9):
    """Everything that a checkpoint holds: parameters, averages, optimisers, memories, counters and random numbers."""
    one, other = tensors(one.state_dict()), tensors(other.state_dict())
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(other[name], value, rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        elif isinstance(value, float):
            assert other[name] == pytest.approx(value, rel=tolerance, nan_ok=True), name
        elif name != "optimisers/optimisers":
            assert str(value) == str(other[name]), name


def configs_of(settings, seeds=3, **changes):
    base = settings(**{"dtype": "float64", "iterations": 8, **changes})
    return [TrainConfig.from_dict({**base, "seed": seed}) for seed in range(seeds)]


def alone(config, target=None, callback=None, until=ITERATIONS):
    trainer = Trainer(target or get_target("gmm25"), config, callbacks=[callback] if callback else [])
    trainer.train(until)
    return trainer


def moved(trainer):
    return Trainer(trainer.target.counted_apart(), trainer.config).state_dict()["agent"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"agent": {"reach": 0.1}},
        {"agent": {"time_grid_power": None}, "replay": {"priority": "importance_weight", "beta": 0.5}},
        {"target_rate": 0.0, "average_decay": 0.0, "single_optimiser": True, "replay": {"priority": "loss"}},
        {"agent": {"destruction_schedule": "learned", "shared_backbone": False}, "target_networks": "generation"},
        {
            "objective": "trajectory_balance",
            "agent": {"reference": "variance_exploding"},
            "replay": {"priority": "rank"},
        },
        {"objective": "detailed_balance", "agent": {"forward_looking": True}, "replay": {"share": 0.0}},
        {"objective": "sub_trajectory_balance", "destruction_objective": "vargrad", "residual": "log_cosh"},
        {
            "agent": {"features": ["raw", "score"], "langevin": True},
            "replay": {"contents": "path", "priority": "reward"},
        },
        {"exploration": {"drift": 0.5, "added": 0.2, "inverse_temperature": 0.5}, "trunk": "generation"},
        {"local_search": {"kind": "mala", "every": 2, "states": 8, "anchors": 4, "moves": 2}},
        {"local_search": {"kind": "ebb_and_flow", "every": 2, "states": 8, "moves": 2}, "residual_bound": None},
        {"agent": {"destruction_mean": "reference", "destruction_variance": "reference"}, "replay": {"capacity": 20}},
    ],
)
def test_each_of_many_runs_is_the_run_alone(settings, changes):
    configs = configs_of(settings, **changes)
    runs = ManyRuns(get_target("gmm25"), configs)
    runs.train(ITERATIONS)
    for config, trainer in zip(configs, runs.trainers, strict=True):
        assert_equal_runs(alone(config), trainer)
    first, last = (trainer.agent.backbone.embed_state.weight for trainer in (runs.trainers[0], runs.trainers[-1]))
    assert (first - last).abs().max() > 1e-2  # and not all the same
    start = moved(runs.trainers[0])
    assert any((start[name] - value).abs().max() > 1e-6 for name, value in runs.trainers[0].agent.state_dict().items())


@pytest.mark.parametrize(
    "common",
    [
        {},
        {"replay": {"contents": "path"}, "agent": {"features": ["raw", "score"]}},
        {"objective": "detailed_balance", "agent": {"forward_looking": True, "reference": "variance_exploding"}},
    ],
)
def test_runs_may_differ_in_numbers_of_many_kinds(settings, common):
    own = [
        {"exploration": {"scale": 2.0, "inverse_temperature": 0.3}, "replay": {"share": 0.25, "beta": 1.0}},
        {"generation_optimiser": {"rate": 1e-3, "beta1": 0.5, "clip_norm": 0.1}, "anchors": {"share": 0.0}},
        {"log_z_optimiser": {"warmup": 0, "schedule": "constant"}, "replay": {"share": 0.0}},
    ]
    configs = []
    for seed, changes in enumerate(own):
        together = {k: {**v, **changes.get(k, {})} if isinstance(v, dict) else v for k, v in common.items()}
        both = changes | together
        configs.append(TrainConfig.from_dict(settings(dtype="float64", iterations=8, seed=seed, **both)))
    runs = ManyRuns(get_target("gmm25"), configs)
    runs.train(ITERATIONS)
    for config, trainer in zip(configs, runs.trainers, strict=True):
        assert_equal_runs(alone(config), trainer)


def test_a_memory_may_be_empty_while_another_is_not(settings):
    changes = {"anchors": {"samples": "anchors.npy"}, "agent": {"sigma": 0.6}, "batch_size": 6}
    configs = configs_of(settings, seeds=4, **changes)
    with pytest.MonkeyPatch.context() as patch:
        import ebbflow.trainers.anchor_search as anchor_search

        patch.setattr(anchor_search, "_load_samples", lambda path: 2.0 + 0.1 * torch.randn(9, 2))
        runs = ManyRuns(HalfPlane(), configs)
        runs.train(1)
        filled = [len(trainer.replay) > 0 for trainer in runs.trainers]
        assert any(filled) and not all(filled)
        runs.train(3)
        for config, trainer in zip(configs, runs.trainers, strict=True):
            assert_equal_runs(alone(config, HalfPlane(), until=3), trainer)


@pytest.mark.parametrize("changes", [{}, {"target_rate": 0.0, "average_decay": 0.0}])
def test_only_the_run_whose_loss_is_not_finite_skips_an_update(settings, changes):
    configs = configs_of(settings, **changes)
    runs = ManyRuns(get_target("gmm25"), configs)
    for trainer, callback in zip(runs.trainers, ([], [SpoilOnce(2)], []), strict=True):
        trainer.callbacks = callback
    runs.train(ITERATIONS)
    assert [trainer.skipped for trainer in runs.trainers] == [0, 1, 0]
    for config, trainer in zip(configs, runs.trainers, strict=True):
        assert_equal_runs(alone(config, callback=SpoilOnce(2) if config.seed == 1 else None), trainer)


class BreaksOnce(HalfPlane):
    """Not a number for the first two states of one call."""

    calls = 0

    def log_prob(self, x):
        self.calls += 1
        return torch.where(torch.arange(len(x)) < (2 if self.calls == 3 else 0), math.nan, super().log_prob(x))


def test_a_density_that_breaks_is_told_at_the_next_look(settings):
    configs = configs_of(settings, seeds=2, anchors={"share": 0.0})
    runs = ManyRuns(BreaksOnce(edge=-1.0), configs)
    for trainer in runs.trainers:
        trainer.look_every = 4
    with pytest.raises(InputError, match=r"'half-plane': log_prob is nan for 2 of \d+ states"):
        runs.train(6)
    assert runs.iteration == 4
    assert [trainer.skipped for trainer in runs.trainers] == [1, 0]  # the third call is of the first iteration
    for trainer in runs.trainers:
        assert all(value.isfinite().all() for value in trainer.state_dict()["agent"].values())
        assert trainer.replay.state_dict()["state"].isfinite().all()
        drawn = trainer.replay.probabilities > 0
        assert trainer.replay.state_dict()["log_reward"][drawn].isfinite().all()
    runs.train(6)
    assert runs.iteration == 6


def test_a_run_goes_on_alone_and_all_go_on_together(settings):
    configs = configs_of(settings)
    runs = ManyRuns(get_target("gmm25"), configs)
    runs.train(3)
    states = [trainer.state_dict() for trainer in runs.trainers]
    for state, stream in zip(states, runs.streams, strict=True):
        with stream:
            state["random"]["torch"] = torch.get_rng_state()
    again = ManyRuns(get_target("gmm25"), configs, states=states)
    again.train()
    for k, config in enumerate(configs):
        whole = alone(config, until=8)
        single = Trainer(get_target("gmm25"), config)
        single.load_state_dict(states[k])
        single.train()
        assert_equal_runs(whole, single)
        assert_equal_runs(whole, again.trainers[k])


def test_a_trainer_may_be_used_alone_after_it_was_one_of_many(settings):
    configs = configs_of(settings)
    runs = ManyRuns(get_target("gmm25"), configs)
    runs.train(3)
    with runs.streams[1]:
        runs.trainers[1].train()
        assert_equal_runs(alone(configs[1], until=8), runs.trainers[1])


def test_callbacks_see_their_own_run_and_its_random_numbers(settings):
    seen = {}

    class Look(Callback):
        def on_iteration(self, trainer, losses):
            row = float(losses["loss_generation"]), float(losses["log_ratio"].sum()), float(torch.rand(()))
            seen.setdefault(trainer.config.seed, []).append(row)

    configs = configs_of(settings)
    runs = ManyRuns(get_target("gmm25"), configs)
    for trainer in runs.trainers:
        trainer.callbacks = [Look()]
    runs.train(2)
    together = dict(seen)
    for config in configs:
        seen.clear()
        alone(config, callback=Look(), until=2)
        for mine, other in zip(seen[config.seed], together[config.seed], strict=True):
            assert mine == pytest.approx(other, rel=1e-9)


def test_a_run_that_asks_to_stop_stops_all_after_the_iteration_under_way(settings):
    class Stop(Callback):
        def on_iteration(self, trainer, losses):
            trainer.stop_requested = trainer.iteration == 2

    runs = ManyRuns(get_target("gmm25"), configs_of(settings))
    runs.trainers[2].callbacks = [Stop()]
    runs.train()
    assert [trainer.iteration for trainer in runs.trainers] == [2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "reverse_kl"}, "objective: .*any rows.*reverse_kl"),
        ({"objective": "vargrad", "destruction_objective": "tlm"}, "destruction_objective: .*any rows.*tlm"),
        ({"compile": True}, "compile: expected False"),
        ({"chunk": 2}, "chunk: expected None"),
        ({"matmul_precision": "bfloat16", "dtype": "float32"}, "matmul_precision: expected 'float32'"),
    ],
)
def test_what_does_not_suit_runs_in_common_is_named(settings, changes, message):
    with pytest.raises(InputError, match=message):
        ManyRuns(get_target("gmm25"), configs_of(settings, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 8},
        {"residual": "squared"},
        {"replay": {"capacity": 7}},
        {"exploration": {"drift": 0.1}},
        {"agent": {"width": 4}},
        {"target_rate": 0.1},
    ],
)
def test_what_may_not_differ_is_named(settings, changes):
    ((name, value),) = changes.items()
    field = f"{name}.{next(iter(value))}" if isinstance(value, dict) else name
    configs = [TrainConfig.from_dict(settings()), TrainConfig.from_dict(settings(**changes))]
    with pytest.raises(InputError, match=f"^{field}: expected the same"):
        ManyRuns(get_target("gmm25"), configs)


@pytest.mark.parametrize("target", ["conditional-gmm", "digits", "potts"])
def test_targets_that_do_not_suit_are_named(settings, target):
    with pytest.raises(InputError, match=r"log density|contexts|tokens|reference"):
        ManyRuns(get_target(target), [TrainConfig()])


def test_no_runs_are_refused():
    with pytest.raises(InputError, match="at least one run"):
        ManyRuns(get_target("gmm25"), [])
