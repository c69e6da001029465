"""A loss in chunks is the same loss, and its memory does not grow with the number of steps."""

import sys
from pathlib import Path

import pytest
import torch

from ebbflow.agents import AgentConfig, build_agent
from ebbflow.agents.compilation import compiled
from ebbflow.envs import Continuous, InputError, Target, Tokens, get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.objectives import JointLoss, VarGrad
from ebbflow.trainers.trainer import Trainer

STEPS = 7


@pytest.fixture
def live_bytes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    from live_bytes import LiveBytes

    yield LiveBytes
    sys.modules.pop("live_bytes")


CASES = {
    "bridge": {},
    "variance preserving": {"reference": "variance_preserving", "shared_backbone": False},
    "scores": {"langevin": True, "features": ["raw", "score"]},
    "generation only": {"destruction_mean": "reference", "destruction_variance": "reference"},
}


def trainer_of(tiny, chunk, **changes):
    trainer = Trainer(
        get_target(changes.get("target", "gmm25")), tiny(steps=STEPS, chunk=chunk, dtype="float64", **changes)
    )
    trainer.train(4)
    return trainer


@pytest.mark.parametrize("case", [*CASES, "contexts"])
def test_training_in_chunks_is_the_same(tiny, case):
    changes = {"agent": CASES[case]} if case in CASES else {"target": "conditional-gmm", "contexts_per_batch": 4}
    whole = trainer_of(tiny, None, **changes)
    for chunk in (1, 3, STEPS, 100):
        trainer = trainer_of(tiny, chunk, **changes)
        for (name, one), (_, other) in zip(
            trainer.agent.named_parameters(), whole.agent.named_parameters(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("reference", ["bridge", "variance_exploding"])
@pytest.mark.parametrize("first", [0, 2])
def test_log_densities_and_gradients_of_segments(reference, first):
    torch.manual_seed(0)
    agent = build_agent(
        Continuous(2), scale=1.0, steps=STEPS, config=AgentConfig(width=8, reference=reference)
    ).double()
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    paths = agent.destroy(torch.randn(5, 2, dtype=torch.float64), first=first)
    results = []
    for chunk in (None, 1, 2, 3):
        agent.chunk = chunk
        terms = agent.path_log_probs(paths)
        total = sum((term * term).sum() for term in terms)
        gradients = torch.autograd.grad(total, list(agent.parameters()), allow_unused=True)
        results.append([*terms, *(g for g in gradients if g is not None)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


def test_followed_paths_keep_their_gradient(tiny):
    """Through the path and through target networks: those are evaluated at once, whatever the chunk."""
    changes = {"objective": "reverse_kl", "destruction_objective": "tlm", "replay": {"share": 0.0}}
    whole, chunked = (trainer_of(tiny, chunk, **changes) for chunk in (None, 2))
    for one, other in zip(whole.agent.parameters(), chunked.agent.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def peak(live_bytes, steps, chunk):
    agent = build_agent(Continuous(20), scale=1.0, steps=steps, config=AgentConfig(width=16, tables=False))
    agent.chunk = chunk
    objective = JointLoss(agent, VarGrad())
    paths = agent.generate(16)
    paths["log_reward"] = torch.zeros(16)
    with live_bytes() as live:
        losses = objective(paths)
        (losses["loss_generation"] + losses["loss_destruction"]).backward()
    return live.peak


def test_memory_does_not_grow_with_the_number_of_steps(live_bytes):
    assert peak(live_bytes, 80, None) > 3.5 * peak(live_bytes, 20, None)
    short, long = peak(live_bytes, 20, 5), peak(live_bytes, 80, 5)
    assert long < 1.1 * short
    assert long < 0.15 * peak(live_bytes, 80, None)


def test_live_bytes_counts_what_lives_at_once(live_bytes):
    x = torch.ones(100, requires_grad=True)
    with live_bytes() as live:
        y = x.exp()  # kept for the backward
        del y
        assert live.now == 0
        z = (2.0 * x).exp().sum()
        assert live.now == 404  # the exponential and its sum; not the double
        z.backward()
    assert live.peak >= 800


@pytest.mark.parametrize("chunk", [0, -3])
def test_chunk_out_of_range(chunk):
    with pytest.raises(InputError, match="chunk"):
        TrainConfig(chunk=chunk)


class Pairs(Target):
    """Samples without a density."""

    def sample(self, n):
        return torch.randn(n, 2).cumsum(dim=-1)


class Words(Target):
    def sample(self, n):
        return torch.zeros(n, 3, dtype=torch.int64)


@pytest.mark.parametrize("changes", [{"chunk": 2}, {"compile": True}])
def test_training_on_data_is_the_same(tiny_of_data, changes, monkeypatch):
    monkeypatch.setattr("ebbflow.trainers.trainer.check_compiler", lambda: None)
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **settings: plain(f, dynamic=settings["dynamic"], backend="eager"))
    compiled.cache_clear()
    try:
        whole, other = (
            Trainer(Pairs(Continuous(2)), tiny_of_data(steps=5, objective="maximum_likelihood", dtype="float64", **one))
            for one in ({}, changes)
        )
        for trainer in (whole, other):
            torch.manual_seed(0)
            trainer.train(3)
    finally:
        compiled.cache_clear()
        torch.compiler.reset()
    for one, two in zip(whole.agent.parameters(), other.agent.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-7)  # Adam blows up the rounding of small ones


@pytest.mark.parametrize("changes", [{"chunk": 2}, {"compile": True}])
def test_agents_that_guess_take_neither(changes):
    with pytest.raises(
        InputError, match=r"expected (None|False) for a DenoisingAgent.*Gaussian steps\), got (2|True)$"
    ):
        Trainer(Words(Tokens(length=3, vocabulary=2)), TrainConfig(**changes))


@pytest.mark.parametrize("changes", [{"objective": "detailed_balance"}, {"compile": True}])
def test_what_cannot_be_evaluated_in_chunks(tiny, changes, monkeypatch):
    monkeypatch.setattr("ebbflow.trainers.trainer.check_compiler", lambda: None)
    with pytest.raises(InputError, match="chunk: expected None with"):
        Trainer(get_target("gmm25"), tiny(chunk=2, **changes))
