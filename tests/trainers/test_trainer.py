"""The training loop: what a batch holds, what it costs, what an update changes, and that it learns."""

import itertools
import math

import numpy
import pytest
import torch

from ebbflow.agents import Origin, build_agent
from ebbflow.buffers.anchors import Anchors
from ebbflow.envs import CallableTarget, Continuous, InputError, get_target
from ebbflow.trainers.callbacks import Callback
from ebbflow.trainers.config import OptimiserConfig
from ebbflow.trainers.evaluation import live_numbers, warnings_of
from ebbflow.trainers.optimisation import Optimisers
from ebbflow.trainers.train import evaluate_run
from ebbflow.trainers.trainer import Trainer

ON_POLICY = {"replay": {"share": 0.0}}


def normal(x):
    return -0.5 * x.square().sum(-1)


def make(config, target=None, **settings):
    return Trainer(target or get_target(config.target), config, **settings)


def snapshot(state):
    """A copy that later training does not change."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    return [snapshot(value) for value in state] if isinstance(state, (list, tuple)) else state


def flat(state, prefix=""):
    if not isinstance(state, dict):
        return {prefix: state}
    return {name: value for key in state for name, value in flat(state[key], f"{prefix}/{key}").items()}


def changed(before, after):
    """Names of the tensors that differ."""
    before, after = flat(before), flat(after)
    assert before.keys() == after.keys()
    return {k for k, v in before.items() if isinstance(v, torch.Tensor) and not torch.equal(v, after[k])}


# Before the first iteration -------------------------------------------------------------------------------------------


def test_log_z_starts_from_the_first_batch(tiny):
    trainer = make(tiny(**ON_POLICY))
    random = torch.get_rng_state()
    trainer.prepare()
    torch.set_rng_state(random)
    with torch.no_grad():
        log_ratio = trainer.agent.log_ratio(trainer.agent.generate(16, trainer.target))
    assert trainer.agent.log_z.item() == pytest.approx(-log_ratio.mean().item(), rel=1e-6)
    assert abs(trainer.agent.log_z.item()) > 0.5  # else the test could not tell it from zero


def test_preparing_twice_is_preparing_once(tiny):
    trainer = make(tiny())
    trainer.prepare()
    calls, log_z, seconds = trainer.energy_calls, trainer.agent.log_z.item(), trainer.seconds
    assert calls > 0 and seconds > 0
    trainer.prepare()
    assert (trainer.energy_calls, trainer.agent.log_z.item(), trainer.seconds) == (calls, log_z, seconds)


def test_the_seed_decides_everything(tiny):
    def weights(seed):
        torch.manual_seed(99)  # must not matter
        trainer = make(tiny(seed=seed, iterations=2))
        trainer.train()
        return snapshot(trainer.state_dict()["agent"])

    assert changed(weights(0), weights(0)) == set()
    assert changed(weights(0), weights(1)) != set()


def test_a_loss_of_log_ratios_needs_a_density(tiny):
    class Data(type(get_target("gmm25")).__base__):
        def __init__(self):
            super().__init__(Continuous(2), name="data")

        def sample(self, n):
            return torch.zeros(n, 2)

    message = "objective: vargrad needs a log density, but target 'data' has samples but no log density"
    with pytest.raises(InputError, match=message):
        make(tiny(), Data())


def test_the_number_of_threads_is_set(tiny, monkeypatch):
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    make(tiny())
    make(tiny(threads=2))
    assert found == [2]


def test_anchors_of_ones_own_must_fit(tiny):
    with pytest.raises(InputError, match=r"anchors: expected states \[n, 2\], got \[10, 3\]"):
        make(tiny(), anchors=Anchors(torch.zeros(10, 3), torch.zeros(10)))


def test_an_agent_of_ones_own_must_fit(tiny):
    with pytest.raises(InputError, match="steps: expected 4 as the given agent has, got 3"):
        make(tiny(), agent=build_agent(Continuous(2), scale=1.0, steps=4))
    with pytest.raises(InputError, match=r"target 'gmm25' has states in Continuous\(dim=2\), but the agent's are in"):
        make(tiny(), agent=build_agent(Continuous(3), scale=1.0, steps=3))


# What a batch holds ---------------------------------------------------------------------------------------------------


def spy(trainer):
    """Record the rows drawn from each source, in each iteration."""
    drawn = {"new": [], "replay": [], "anchors": []}

    def recording(name, method):
        def call(n, *args, **kwargs):
            drawn[name].append(n)
            return method(n, *args, **kwargs)

        return call

    trainer.prepare()
    trainer.agent.generate = recording("new", trainer.agent.generate)
    trainer.replay.draw = recording("replay", trainer.replay.draw)
    if trainer.anchors is not None:
        trainer.anchors.draw = recording("anchors", trainer.anchors.draw)
    trainer.train()
    return drawn


@pytest.mark.parametrize(
    ("replay", "anchors", "rows"),
    [
        (0.0, 0.5, {"new": [16] * 3, "replay": [], "anchors": []}),
        (0.5, 0.0, {"new": [16, 8, 8], "replay": [8, 8], "anchors": []}),
        (0.5, 0.25, {"new": [14, 8, 8], "replay": [6, 6], "anchors": [2] * 3}),
        (0.5, 1.0, {"new": [8] * 3, "replay": [], "anchors": [8] * 3}),
        (1.0, 0.5, {"new": [8, 1, 1], "replay": [7, 7], "anchors": [8] * 3}),
    ],
)
def test_the_shares_of_a_batch(replay, anchors, rows, tiny):
    trainer = make(tiny(iterations=3, replay={"share": replay}, anchors={"share": anchors}))
    assert spy(trainer) == rows
    assert (trainer.anchors is None) == (replay * anchors == 0)
    assert len(trainer.replay) == (sum(rows["new"]) if replay else 0)
    size = []
    trainer.objective.register_forward_hook(lambda module, args, output: size.append(len(args[0])))
    trainer.step()
    assert size == [16]


@pytest.mark.parametrize("contents", ["terminal", "path"])
def test_what_is_drawn_again_gets_a_new_priority(contents, tiny):
    trainer = make(tiny(replay={"contents": contents, "share": 0.9}, anchors={"share": 0.0}))
    trainer.train(until=1)
    before = trainer.replay.state_dict()["log_ratio"]
    trainer.train(until=2)
    after = trainer.replay.state_dict()["log_ratio"]
    moved = (before != after[: len(before)]).sum().item()
    assert 1 <= moved <= 14 if contents == "terminal" else 0 <= moved <= 14
    trainer.train()
    assert trainer.replay.priorities.shape == (len(trainer.replay),)


def test_importance_weights_reach_the_loss(tiny):
    seen = []
    trainer = make(tiny(iterations=3, replay={"priority": "loss", "beta": 1.0}, anchors={"share": 0.5}))
    trainer.objective.register_forward_hook(lambda module, args, output: seen.append(args[0].get("weight", None)))
    trainer.train()
    first, *others = seen
    assert first is None  # nothing is remembered yet
    for weight in others:
        assert weight.shape == (16,)
        assert torch.equal(weight[:8], torch.ones(8)) and torch.equal(weight[12:], torch.ones(4))
        assert (weight[8:12] != 1).any()


def test_the_loss_sees_a_tempered_target_and_the_memory_the_target_itself(tiny):
    seen = []
    exploration = {"inverse_temperature": 0.01, "until": 0.5}
    trainer = make(tiny(iterations=8, exploration=exploration, anchors={"share": 0.0}), CallableTarget(normal, 2))
    trainer.objective.register_forward_hook(lambda module, args, output: seen.append(args[0].clone()))
    trainer.train()
    for iteration, batch in enumerate(seen):
        beta = 0.01 ** max(0.0, 1 - iteration / 4)
        assert torch.allclose(batch["log_reward"], beta * normal(batch["state"][:, -1]), rtol=1e-4), iteration
    rows = trainer.replay.state_dict()
    assert torch.allclose(rows["log_reward"], normal(rows["state"]), rtol=1e-4)


# Local search ---------------------------------------------------------------------------------------------------------


SEARCHES = {
    "mala": {"kind": "mala", "every": 4, "states": 10, "anchors": 5, "moves": 3},
    "ebb_and_flow": {"kind": "ebb_and_flow", "every": 4, "states": 10, "anchors": 5, "moves": 3},
}


@pytest.mark.parametrize("contents", ["terminal", "path"])
@pytest.mark.parametrize("kind", SEARCHES)
def test_searched_states_become_rows_and_anchors(kind, contents, tiny):
    trainer = make(tiny(local_search=SEARCHES[kind], replay={"contents": contents}), CallableTarget(normal, 2))
    sizes, anchors = [], []

    class Look(Callback):
        def on_iteration(self, trainer, losses):
            sizes.append(len(trainer.replay))
            anchors.append(trainer.anchors)

    trainer.callbacks = [Look()]
    trainer.train()
    assert trainer.local_search.acceptance > 0.1
    growth = [after - before for before, after in itertools.pairwise(sizes)]
    found = [rows - 8 for rows in growth]
    assert all(rows == 0 for i, rows in enumerate(found) if i not in (2, 6, 10))
    assert all(1 <= found[i] <= 10 for i in (2, 6, 10))
    assert trainer.replay.share_of(Origin.LOCAL_SEARCH) == sum(found) / len(trainer.replay)
    rows = trainer.replay.state_dict()
    state = rows["state"] if contents == "terminal" else rows["state"][:, -1]
    moved = rows["log_reward"].isfinite()  # the others hold places
    assert moved.sum() == len(trainer.replay)
    torch.testing.assert_close(rows["log_reward"][moved], normal(state)[moved])
    assert rows["known"][moved].all() and rows["log_ratio"].isfinite().all()
    for before, after in itertools.pairwise(anchors):
        assert (before is after) or 1 <= (before.states != after.states).any(dim=1).sum() <= 5
    assert len({id(one) for one in anchors}) == 4
    torch.testing.assert_close(trainer.anchors.log_reward, normal(trainer.anchors.states))


def test_states_that_have_not_moved_are_no_new_rows(tiny, monkeypatch):
    search = {"kind": "mala", "every": 1, "states": 10, "moves": 3}
    trainer = make(tiny(local_search=search, anchors={"share": 0.0}), CallableTarget(normal, 2))
    moves = torch.arange(10) % 3 == 0  # 4 of 10

    def move(states, log_reward, context):
        states = torch.where(moves[:, None], states + 100.0, states)
        return states, torch.where(moves, normal(states), log_reward), [torch.tensor(0.4)]

    monkeypatch.setattr(trainer.local_search, "_move", move)
    trainer.train(until=1)
    rows = trainer.replay.state_dict()
    found = rows["log_reward"].isfinite() & (rows["origin"] == Origin.LOCAL_SEARCH)
    assert found.sum() == 4 and (rows["state"][found] > 50.0).all()
    assert (len(trainer.replay), trainer.replay.filled) == (16 + 4, 16 + 10)


@pytest.mark.parametrize(("kind", "calls"), [("mala", (60, 60)), ("ebb_and_flow", (45, 0))])
def test_what_local_search_costs(kind, calls, tiny):
    """Three searches of fifteen states with three moves each, on top of what the run costs anyway."""
    density, plain = Counted(), make(tiny(), CallableTarget(normal, 2))
    plain.train()
    trainer = make(tiny(local_search=SEARCHES[kind]), CallableTarget(density, 2))
    trainer.train()
    assert (trainer.local_search.energy_calls, trainer.local_search.gradient_calls) == (3 * calls[0], 3 * calls[1])
    assert trainer.energy_calls == density.states == plain.energy_calls + 3 * calls[0]
    assert trainer.gradient_calls == plain.gradient_calls + 3 * calls[1]


def test_local_search_tempers_priorities_as_the_loss_does(tiny):
    search = {"kind": "mala", "every": 1, "states": 10, "moves": 3}
    exploration = {"inverse_temperature": 0.01, "until": 1.0}
    trainer = make(tiny(local_search=search, exploration=exploration, anchors={"share": 0.0}))
    seen = []
    destroy = trainer.agent.destroy
    trainer.agent.destroy = lambda *args, **kwargs: seen.append(destroy(*args, **kwargs)) or seen[-1]
    trainer.train(until=1)
    rows = trainer.replay.state_dict()
    moved = rows["origin"][-10:] == Origin.LOCAL_SEARCH
    assert moved.sum() > 5
    with torch.no_grad():
        expected = trainer.agent.path_log_probs(seen[-1]).log_ratio(0.01 * seen[-1]["log_reward"])
    torch.testing.assert_close(rows["log_ratio"][-10:][moved], expected[moved])


def test_the_anchors_that_were_given_stay_as_they_are(tiny):
    target = CallableTarget(normal, 2)
    given = Anchors.from_samples(target, torch.randn(30, 2))
    before = given.states.clone()
    trainer = make(tiny(local_search=SEARCHES["mala"]), target, anchors=given)
    trainer.train()
    assert torch.equal(given.states, before) and not torch.equal(trainer.anchors.states, before)


def test_the_drift_costs_a_gradient_a_step_until_it_is_gone(tiny):
    trainer = make(
        tiny(exploration={"drift": 0.5, "until": 0.5}, anchors={"share": 0.0}, replay={"share": 0.0}),
        CallableTarget(normal, 2),
    )
    trainer.train()
    assert trainer.gradient_calls == 6 * (16 * 2 + 1)  # x_0 is the same for all paths
    assert trainer.energy_calls == 16 + 12 * 16 + trainer.gradient_calls


# Cost -----------------------------------------------------------------------------------------------------------------


class Counted:
    """A density that counts the states it is asked for by itself."""

    def __init__(self):
        self.states = 0

    def __call__(self, x):
        self.states += x.shape[0]
        return normal(x)


def test_energy_calls_are_anchors_and_new_paths(tiny):
    """Destroying remembered states costs none: their densities are remembered, too."""
    density = Counted()
    trainer = make(tiny(), CallableTarget(density, 2))
    trainer.train()
    anchors = 40 * (1 + 3 * (1 + 1) + 2)
    assert trainer.anchors.energy_calls == anchors
    new = 16 + (16 - 4) + 11 * 8  # to prepare; the first batch without replay; the others
    assert trainer.energy_calls == density.states == anchors + new
    assert trainer.gradient_calls == trainer.anchors.gradient_calls == anchors


def test_scores_cost_a_call_for_each_state_of_each_path(tiny):
    density = Counted()
    config = tiny(agent={"features": ["raw", "score"]}, replay={"contents": "path"}, anchors={"share": 0.0})
    trainer = make(config, CallableTarget(density, 2))
    trainer.train()
    states = 16 * 3 + 1  # of new paths, of which x_0 is the same for all
    remembered = 8 * (3 + 1)
    states = 2 * states + 11 * (8 * 3 + 1 + remembered)  # to prepare; the first batch; both kinds in the others
    assert trainer.energy_calls == trainer.gradient_calls == density.states == states


def test_looking_at_a_run_does_not_cost(tiny):
    trainer = make(tiny(iterations=2))
    trainer.train()
    before = trainer.energy_calls, trainer.gradient_calls
    found = evaluate_run(trainer)
    assert (trainer.energy_calls, trainer.gradient_calls) == before
    assert (found["energy_calls"], found["gradient_calls"], found["seconds"]) == (*before, trainer.seconds)
    assert (found["anchor_log_z"], found["anchor_log_z_stderr"]) == (
        trainer.anchors.log_z,
        trainer.anchors.log_z_stderr,
    )


def test_a_target_used_before_does_not_add_its_calls(tiny):
    target = get_target("gmm25")
    make(tiny(), target).train()
    once = target.energy_calls, target.gradient_calls
    trainer = make(tiny(), target)
    assert trainer.energy_calls == trainer.gradient_calls == 0
    trainer.train()
    assert (trainer.energy_calls, trainer.gradient_calls) == once
    assert target.energy_calls == 2 * once[0] > 0


def test_anchors_of_ones_own_count_what_they_cost(tiny):
    target = CallableTarget(normal, 2)
    trainer = make(tiny(), target, anchors=Anchors.from_samples(target, torch.randn(30, 2)))
    assert trainer.energy_calls == 30
    trainer.train()
    assert (trainer.energy_calls, trainer.gradient_calls) == (30 + 16 + 12 + 11 * 8, 0)


# Anchors from a file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_anchors_from_a_file(dtype, tiny, tmp_path):
    x = numpy.random.default_rng(0).integers(-3, 4, size=(25, 2)).astype(dtype)
    numpy.save(tmp_path / "mine.npy", x)
    trainer = make(tiny(anchors={"samples": str(tmp_path / "mine.npy")}))
    trainer.train(until=2)
    assert trainer.anchors.states.dtype == torch.float32
    assert numpy.array_equal(trainer.anchors.states.numpy(), x.astype("float32"))
    assert trainer.gradient_calls == 0


@pytest.mark.parametrize("contents", ["terminal", "path"])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(("generation", "destruction"), [("vargrad", "tlm"), ("reverse_kl_log_derivative", "tlm")])
def test_the_trainer_knows_where_rows_of_each_kind_lie(contents, share, generation, destruction, tiny):
    config = tiny(
        objective=generation,
        destruction_objective=destruction,
        replay={"contents": contents, "share": share, "priority": "loss"},
        exploration={"scale": 1.5, "until": 0.5},
        batch_size=20,
    )
    trainer = make(config)
    for _ in range(config.iterations):
        trainer.train(until=trainer.iteration + 1)
        mixed = trainer._mix(trainer.iteration / config.iterations)
        origin = mixed.batch["origin"]
        for rows, mask in (
            ("any", origin >= 0),
            ("on_policy", origin == Origin.ON_POLICY),
            ("destroyed", origin >= Origin.REPLAY),
        ):
            expected = torch.zeros(20, dtype=torch.bool)
            expected[mixed.places[rows]] = True
            assert torch.equal(expected, mask), rows
        places = trainer.objective(mixed.batch, mixed.places)
        looked_up = trainer.objective(mixed.batch)
        torch.testing.assert_close(places.to_dict(), looked_up.to_dict())


# One update -----------------------------------------------------------------------------------------------------------


def test_an_update_that_is_not_finite_moves_no_parameter(tiny):
    calls = 0

    def sometimes_huge(x):
        nonlocal calls
        calls += 1
        return normal(x) + (1e30 if calls == 4 else 0.0)  # its square overflows

    trainer = make(tiny(**ON_POLICY), CallableTarget(sometimes_huge, 2))
    trainer.train(until=2)
    before = snapshot(trainer.state_dict())
    trainer.train(until=3)
    after = snapshot(trainer.state_dict())
    assert (trainer.skipped, trainer.iteration) == (1, 3)
    # What follows the parameters goes on towards where they are.
    moved = {name for name in changed(before, after) if not name.startswith(("/target_networks/", "/averaged/"))}
    assert moved == {"/random/torch"}
    trainer.train(until=4)
    assert trainer.skipped == 1
    last = changed(after, snapshot(trainer.state_dict()))
    for part in ("agent", "averaged", "target_networks", "optimisers"):
        assert any(name.startswith(f"/{part}/") for name in last), part


def test_target_networks_and_average_follow_at_their_rates(tiny):
    no_warmup = {name: {"warmup": 0} for name in ("generation_optimiser", "destruction_optimiser")}
    rapid = {"log_z_optimiser": {"warmup": 0, "rate": 1.0}}
    trainer = make(tiny(target_rate=0.25, average_decay=0.5, **no_warmup, **rapid))
    trainer.train(until=1)
    for _ in range(2):
        before = snapshot(trainer.state_dict())
        trainer.step()
        after = trainer.state_dict()
        for name, value in after["agent"].items():
            target = f"target_networks/{name}"
            old, new = before["target_networks"][name], after["target_networks"][name]
            assert torch.allclose(new, 0.75 * old + 0.25 * value, atol=1e-6), target
            old, new = before["averaged"][f"module.{name}"], after["averaged"][f"module.{name}"]
            assert torch.allclose(new, 0.5 * old + 0.5 * value, atol=1e-6), name
    assert trainer.evaluated_agent is trainer.averaged.module


def test_without_average_the_last_agent_is_evaluated(tiny):
    trainer = make(tiny(average_decay=0.0, target_rate=0.0))
    assert trainer.evaluated_agent is trainer.agent
    assert trainer.state_dict()["averaged"] is None and trainer.state_dict()["target_networks"] is None


# Looking now and then -------------------------------------------------------------------------------------------------


class Breaks:
    """A normal density that is not a number for some states, in some calls."""

    def __init__(self, calls):
        self.bad = calls
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        wrong = torch.arange(len(x)) < (2 if self.calls in self.bad else 0)
        return torch.where(wrong, math.nan, normal(x))


BROKEN = r"log_prob is nan for 4 of 40 states, first at x = .*; expected finite values \(or -inf outside the support\)"
ONLY_OWN = {"anchors": {"share": 0.0}}  # the density is called once to prepare, and once an iteration


def assert_nothing_bad(trainer):
    assert all(value.isfinite().all() for value in trainer.agent.state_dict().values())
    assert all(value.isfinite().all() for value in trainer.averaged.state_dict().values())
    rows = trainer.replay.state_dict()
    drawn = trainer.replay.probabilities > 0
    assert rows["state"].isfinite().all() and rows["log_reward"][drawn].isfinite().all()
    assert len(trainer.replay) == drawn.sum() == trainer.replay.filled - 4


@pytest.mark.parametrize("look_every", [1, 4])
def test_a_density_that_breaks_is_told_at_the_next_look(look_every, tiny):
    """Between two looks nothing is learned from it, and nothing of it is drawn."""
    seen = []

    class Count(Callback):
        def on_iteration(self, trainer, losses):
            seen.append(trainer.iteration)

    density = Breaks({3, 4})  # in iterations 2 and 3
    trainer = make(tiny(**ONLY_OWN), CallableTarget(density, 2), callbacks=[Count()])
    trainer.look_every = look_every
    with pytest.raises(InputError, match=BROKEN if look_every > 1 else "nan for 2 of 8 states"):
        trainer.train()
    assert seen == list(range(1, 4 if look_every > 1 else 2))
    if look_every > 1:
        assert trainer.skipped == 2 and density.calls == 5
        assert_nothing_bad(trainer)
        trainer.train()  # told once
        assert trainer.iteration == 12


def test_what_is_saved_was_looked_at(tiny):
    trainer = make(tiny(**ONLY_OWN), CallableTarget(Breaks({3, 4}), 2))
    trainer.look_every = 50
    trainer.prepare()
    for _ in range(4):
        trainer.step()
    with pytest.raises(InputError, match=BROKEN):
        trainer.state_dict()
    assert_nothing_bad(trainer)


def test_the_end_of_a_training_is_looked_at(tiny):
    trainer = make(tiny(iterations=3, **ONLY_OWN), CallableTarget(Breaks({3, 4}), 2))
    trainer.look_every = 50
    with pytest.raises(InputError, match="nan for 4 of 32 states"):
        trainer.train()


@pytest.mark.parametrize("memory", [{}, {"priority": "rank", "beta": 1.0}, {"priority": "importance_weight"}])
def test_when_it_is_looked_makes_no_difference_to_the_training(memory, tiny):
    found = []
    for look_every in (1, 5):
        trainer = make(tiny(replay=memory, local_search=SEARCHES["mala"]), CallableTarget(half_space, 2))
        trainer.look_every = look_every
        trainer.train()
        found.append(snapshot(trainer.state_dict()))
    assert changed(*found) == set()


# Optimisers -----------------------------------------------------------------------------------------------------------


AGENTS = {
    "shared": {},
    "separate": {"shared_backbone": False},
    "no tables": {"tables": False},
    "langevin": {"langevin": True},
    "fixed": {"generation_variance": "fixed"},
    "no gain": {"gain": False},
    "generation only": {"destruction_mean": "reference", "destruction_variance": "reference"},
}


def optimisers_of(tiny, agent=None, iterations=10, single=False, **settings):
    agent = build_agent(Continuous(2), scale=1.0, steps=3, config=tiny(agent=agent or {}).agent)
    configs = dict.fromkeys(("generation", "destruction", "log_z"), OptimiserConfig(**settings))
    return agent, Optimisers(agent, configs, iterations, single=single)


@pytest.mark.parametrize("name", AGENTS)
def test_every_parameter_belongs_to_one_optimiser(name, tiny):
    agent, optimisers = optimisers_of(tiny, AGENTS[name])
    names = {id(parameter): name for name, parameter in agent.named_parameters()}
    owned = {
        key: [names[id(p)] for group in optimiser.param_groups for p in group["params"]]
        for key, optimiser in optimisers.optimisers.items()
    }
    everything = [name for part in owned.values() for name in part]
    assert sorted(everything) == sorted(names.values())  # none left out, none twice
    assert owned["log_z"] == ["log_z"]
    assert all(n.startswith(("backbone.", "generation.")) for n in owned["generation"])
    assert all(n.startswith(("destruction.", "destruction_backbone.")) for n in owned.get("destruction", []))
    assert ("destruction" in owned) == (name != "generation only")
    for optimiser in optimisers.optimisers.values():
        for group in optimiser.param_groups:
            tables = {names[id(p)].endswith("table") for p in group["params"]}
            assert len(tables) == 1
            if tables == {True}:
                assert group["initial_lr"] == OptimiserConfig().table_rate


def test_learning_rates_warm_up_and_decay_to_zero(tiny):
    optimisers = {
        "generation_optimiser": {"rate": 1e-3, "table_rate": 3e-3, "warmup": 3},
        "destruction_optimiser": {"rate": 2e-3, "table_rate": 5e-3, "warmup": 3},
        "log_z_optimiser": {"rate": 4e-3, "warmup": 3},
    }
    seen = []

    class Recorder(Callback):
        def on_iteration(self, trainer, losses):
            groups = [g for o in trainer.optimisers.optimisers.values() for g in o.param_groups]
            seen.append([g["lr"] / g["initial_lr"] for g in groups])

    trainer = make(tiny(iterations=10, **optimisers))
    first = [g["lr"] for o in trainer.optimisers.optimisers.values() for g in o.param_groups]
    assert sorted(first) == pytest.approx([v * 1e-3 / 4 for v in (1.0, 2.0, 3.0, 4.0, 5.0)])
    trainer.callbacks = [Recorder()]
    trainer.train()
    # The rates after iteration i are those that iteration i + 1 uses.
    expected = [min(1.0, (i + 1) / 4) * 0.5 * (1 + math.cos(math.pi * i / 10)) for i in range(1, 11)]
    for found, value in zip(seen, expected, strict=True):
        assert found == pytest.approx([value] * 5, abs=1e-12)
    assert seen[-1] == pytest.approx([0.0] * 5, abs=1e-12)


def test_a_constant_schedule_only_warms_up(tiny):
    _, optimisers = optimisers_of(tiny, schedule="constant", warmup=1)
    factors = [optimisers.schedulers["log_z"].lr_lambdas[0](i) for i in (0, 1, 2, 9, 10)]
    assert factors == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_an_exponential_schedule_multiplies_by_its_factor(tiny):
    _, optimisers = optimisers_of(tiny, schedule="exponential", decay=0.5, warmup=1)
    factors = [optimisers.schedulers["destruction"].lr_lambdas[0](i) for i in (0, 1, 2, 10)]
    assert factors == [0.5, 0.5, 0.25, 0.5**10]


@pytest.mark.parametrize("name", AGENTS)
def test_a_single_optimiser_owns_both_policies(name, tiny):
    agent, optimisers = optimisers_of(tiny, AGENTS[name], single=True)
    assert sorted(optimisers.optimisers) == ["generation", "log_z"]
    owned = [p for group in optimisers.optimisers["generation"].param_groups for p in group["params"]]
    assert {id(p) for p in owned} == {id(p) for p in agent.parameters()} - {id(agent.log_z)}
    assert len(owned) == len({id(p) for p in owned})


def test_a_single_optimiser_clips_the_joint_gradient_and_differs_in_nothing_else(tiny):
    agent, optimisers = optimisers_of(tiny, single=True, clip_norm=2.0)
    policies = [p for p in agent.parameters() if p is not agent.log_z]
    optimisers.step(1e4 * sum(p.sum() for p in agent.parameters()))
    assert torch.cat([p.grad.flatten() for p in policies]).norm().item() == pytest.approx(2.0, rel=1e-4)

    def trained(single, clip_norm):
        settings = {f"{name}_optimiser": {"clip_norm": clip_norm} for name in ("generation", "destruction")}
        trainer = make(tiny(single_optimiser=single, **settings))
        trainer.train()
        return snapshot(trainer.agent.state_dict())

    assert changed(trained(True, math.inf), trained(False, math.inf)) == set()  # Adam works by coordinate
    assert changed(trained(True, 1e-3), trained(False, 1e-3)) != set()


def test_gradients_are_clipped_for_each_optimiser_alone(tiny):
    agent, optimisers = optimisers_of(tiny, clip_norm=2.0)
    generation = list(agent.generation.parameters())
    destruction = list(agent.destruction.parameters())
    loss = 1e4 * sum(p.sum() for p in generation) + 1e-4 * sum(p.sum() for p in destruction) + 7.0 * agent.log_z

    def norm(parameters):
        return torch.cat([p.grad.flatten() for p in parameters]).norm().item()

    optimisers.step(loss)
    assert norm(generation) == pytest.approx(2.0, rel=1e-4)
    size = sum(p.numel() for p in destruction)
    assert norm(destruction) == pytest.approx(1e-4 * math.sqrt(size), rel=1e-4)  # not touched by the others' clipping
    assert agent.log_z.grad.item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_update_whose_gradient_is_not_finite_is_left_out(bad, dtype, tiny):
    """Also where the loss itself is fine, and for every optimiser: half an update is none."""
    agent, optimisers = optimisers_of(tiny)
    agent.to(dtype)

    def step():
        optimisers.step(agent.log_z + sum(p.sum() for p in agent.parameters()))
        return int(optimisers.skipped), int(optimisers.skipped_in_a_row)

    for row in (1, 2):
        before = snapshot(agent.state_dict())
        assert step() == (row - 1, 0)
        assert len(changed(before, agent.state_dict())) == len(list(agent.parameters()))
        after = snapshot({"agent": agent.state_dict(), "adam": optimisers.state_dict()["optimisers"]})

        hook = agent.log_z.register_hook(lambda gradient: gradient * bad)
        assert step() == (row, 1)
        hook.remove()
        last = {"agent": agent.state_dict(), "adam": optimisers.state_dict()["optimisers"]}
        assert changed(after, last) == set()


def test_parameters_without_a_gradient_stay(tiny):
    agent, optimisers = optimisers_of(tiny)
    before = snapshot(agent.state_dict())
    optimisers.step(2.0 * agent.log_z)
    assert changed(before, agent.state_dict()) == {"/log_z"}


def test_a_state_saved_without_the_fused_kernel_is_taken_over(tiny):
    def step(optimisers, agent):
        optimisers.step(sum(p.square().sum() for p in agent.parameters()))

    (agent, optimisers), (other, restored) = optimisers_of(tiny), optimisers_of(tiny)
    step(optimisers, agent)
    saved = optimisers.state_dict()
    for adam in saved["optimisers"].values():
        for group in adam["param_groups"]:
            group |= {"fused": False, "foreach": True}
        for state in adam["state"].values():
            state["step"] = state["step"].cpu()
    other.load_state_dict(agent.state_dict())
    restored.load_state_dict(saved)
    for each in ((optimisers, agent), (restored, other)):
        step(*each)
    assert changed(agent.state_dict(), other.state_dict()) == set()
    assert all(group["fused"] for adam in restored.optimisers.values() for group in adam.param_groups)


# Support --------------------------------------------------------------------------------------------------------------


def half_space(x):
    return torch.where(x[:, 0] > 0, normal(x), -math.inf)


@pytest.mark.parametrize("objective", ["vargrad", "trajectory_balance"])
def test_states_outside_the_support_count_as_the_floor(objective, tiny):
    seen = []
    target = CallableTarget(half_space, 2)
    config = tiny(iterations=6, objective=objective, log_reward_floor=-1e4, anchors={"share": 0.0})
    trainer = make(config, target)
    trainer.objective.register_forward_hook(lambda module, args, output: seen.append(args[0]["log_reward"]))
    trainer.train(until=1)
    assert abs(trainer.agent.log_z.item()) < 5  # of states inside; one at the floor would show
    trainer.train()
    rewards = torch.cat(seen)
    assert (rewards == -1e4).any() and rewards.min() == -1e4
    assert trainer.skipped == 0
    rows = trainer.replay.state_dict()
    inside = rows["state"][:, 0] > 0
    assert len(trainer.replay) == inside.sum() < trainer.replay.filled == 16 + 5 * 8
    torch.testing.assert_close(rows["log_reward"], torch.where(inside, normal(rows["state"]), -math.inf))
    assert torch.equal(trainer.replay.probabilities > 0, inside)
    assert evaluate_run(trainer, samples=100)["elbo"] == -math.inf  # the floor is not used there


def test_a_density_that_is_zero_everywhere_is_refused(tiny):
    target = CallableTarget(lambda x: x.sum(-1) * 0 - math.inf, 2, name="nothing")
    for share in (0.0, 0.5):
        with pytest.raises(InputError, match=r"'nothing'.* -inf"):
            make(tiny(anchors={"share": share}), target).train()


# It learns ------------------------------------------------------------------------------------------------------------


def test_a_short_training_finds_the_modes(tiny):
    config = tiny(
        steps=5,
        iterations=150,
        batch_size=128,
        agent={"width": 32, "depth": 2, "frequencies": [1.0, 2.0, 4.0, 8.0]},
        anchors={"count": 300, "temperatures": 15},
        generation_optimiser={"warmup": 10},
        destruction_optimiser={"warmup": 10},
        evaluation_samples=1000,
    )
    trainer = make(config)
    trainer.prepare()
    before = evaluate_run(trainer)
    trainer.train()
    found = evaluate_run(trainer)
    assert 0 < found["sandwich_width"] < 10 < 12 < before["sandwich_width"]
    assert found["mode_coverage"] >= 0.6
    assert found["elbo"] <= found["true_log_z"] + 3 * found["elbo_stderr"]
    assert found["eubo"] >= found["true_log_z"] - 3 * found["eubo_stderr"]
    assert abs(found["log_z"] - found["true_log_z"]) < 1.0
    assert trainer.skipped == 0


def test_a_gain_narrows_the_bounds_of_a_funnel(tiny):
    """Three steps, the same budget: with seeds 0 to 3 its width is 60 to 66 % of that without, its EUBO 56 to 69 %."""
    found = {}
    for gain in (False, True):
        config = tiny(
            iterations=600,
            batch_size=128,
            seed=1,
            average_decay=0.99,
            agent={"width": 16, "depth": 2, "features": ["raw", "asinh", "fourier"], "gain": gain},
            exploration={"scale": 1.0},
            anchors={"samples": "exact", "count": 2000},
            **{f"{name}_optimiser": {"rate": 1e-2, "table_rate": 1e-2} for name in ("generation", "destruction")},
        )
        trainer = make(config, get_target("funnel", dim=3))
        trainer.train()
        found[gain] = live_numbers(trainer.evaluated_agent, trainer.target, 4000, seed=0)
    width = {gain: numbers["eubo"] - numbers["elbo"] for gain, numbers in found.items()}
    assert 0 < width[True] < 0.85 * width[False]
    assert 0 < found[True]["eubo"] < 0.85 * found[False]["eubo"]  # log Z is 0: the neck, which the ELBO may not see


def test_a_collapsed_sampler_is_flagged(tiny):
    """Without anchors or replay, and with steps too short to leave the middle, only one mode of 25 is found."""
    trainer = make(tiny(iterations=40, agent={"sigma": 0.2}, replay={"share": 0.0}, evaluation_samples=200))
    trainer.train()
    found = evaluate_run(trainer)
    warnings = " ".join(warnings_of(found))
    assert found["mode_coverage"] < 0.1
    for name in ("ess_forward", "sandwich_width", "mode_coverage"):
        assert f"{name} = " in warnings


def test_the_anchors_say_how_far_means_may_lead(tiny):
    trainer = make(tiny(agent={"reach": 1.5}))
    trainer.train(2)
    extent = trainer.agent.space.coordinates(trainer.anchors.states).abs().amax(0)
    bound = 1.5 * extent.clamp_min(trainer.target.scale)
    assert (extent > trainer.target.scale).all()
    for agent in (trainer.agent, trainer.averaged.module, trainer.objective.target_agent):
        for head in (agent.generation, agent.destruction):
            torch.testing.assert_close(head.reach.bound.squeeze(-1), bound)
    again = make(tiny(agent={"reach": 1.5}))
    again.load_state_dict(trainer.state_dict())
    for agent in (again.agent, again.averaged.module, again.objective.target_agent):
        torch.testing.assert_close(agent.destruction.reach.bound.squeeze(-1), bound)


def test_a_narrow_target_leaves_the_reference_its_spread(tiny):
    narrow = CallableTarget(lambda x: normal(x / 1e-2), dim=1, scale=3.0)
    trainer = make(tiny(agent={"reach": 2.0}, target="a.py:b"), target=narrow)
    trainer.prepare()
    assert float(trainer.agent.generation.reach.bound) == 6.0


@pytest.mark.parametrize("changes", [{"agent": {"reach": None}}, {"anchors": {"share": 0.0}}])
def test_means_lead_anywhere_without_anchors_or_where_none_is_asked_for(tiny, changes):
    trainer = make(tiny(**changes))
    trainer.prepare()
    reach = trainer.agent.generation.reach
    assert reach is None or (reach.bound == 1e30).all()
