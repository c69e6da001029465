"""Evaluation end to end, on agents whose every number is known: an untrained bridge samples N(0, σ²) and nothing else.

Its destruction is the exact conditional of its generation, so that the weight of a path is p(x_T) / N(x_T; 0, σ²).
"""

import json
import math
import os

import numpy
import pytest
import torch

from ebbflow.agents.architecture import AgentConfig, build_agent
from ebbflow.envs.errors import InputError
from ebbflow.envs.spaces import Continuous
from ebbflow.envs.target import Target
from ebbflow.envs.targets.callable import CallableTarget
from ebbflow.envs.targets.funnel import Funnel
from ebbflow.envs.targets.mixtures import GaussianMixture
from ebbflow.trainers.data_likelihood import LIKELIHOODS
from ebbflow.trainers.evaluation import (
    as_json,
    evaluate,
    live_numbers,
    log_weights_of_destroyed,
    sample_agent,
    warnings_of,
    write_evaluation,
)

KEYS = [
    "elbo",
    "elbo_stderr",
    "eubo",
    "eubo_stderr",
    "eubo_median",
    "sandwich_width",
    "log_z",
    "log_z_stderr",
    "true_log_z",
    "ess_reverse",
    "ess_forward",
    "khat",
    "sinkhorn",
    "sinkhorn_floor",
    "mode_coverage",
    "mode_mass_error",
    "zero_density_share",
    "samples",
    "log_likelihood",
    "log_likelihood_stderr",
    "bits_per_dimension",
    "train_log_likelihood",
    "train_bits_per_dimension",
    "anchor_log_z",
    "anchor_log_z_stderr",
    "energy_calls",
    "gradient_calls",
    "seconds",
]
COST = {"anchor_log_z": 0.25, "anchor_log_z_stderr": 0.5, "energy_calls": 7, "gradient_calls": 0, "seconds": 1.5}
LOG_Z = 4.0


def bridge(dim: int = 1, sigma: float = 1.0, steps: int = 3, **settings):
    """An untrained agent: its samples are N(0, σ²) in every coordinate, of the state itself unless compressed."""
    config = AgentConfig(**{"width": 8, "compression": None, **settings})
    return build_agent(Continuous(dim), scale=sigma, steps=steps, config=config)


def gaussian(dim: int = 1, std: float = 1.0, *, sampled: bool = True) -> CallableTarget:
    """exp(4) times the density of N(0, std²)."""
    offset = LOG_Z - dim * (0.5 * math.log(2 * math.pi) + math.log(std))
    return CallableTarget(
        lambda x: offset - 0.5 * (x / std).square().sum(-1),
        dim=dim,
        sample=(lambda n: std * torch.randn(n, dim)) if sampled else None,
        log_z=LOG_Z if sampled else None,
        name="gaussian",
    )


def divergence(of: float, from_: float, dim: int) -> float:
    """KL(N(0, of²) || N(0, from_²)), nats."""
    return dim * (math.log(from_ / of) + of**2 / (2 * from_**2) - 0.5)


class Data(Target):
    """Samples without a density."""

    def __init__(self):
        super().__init__(Continuous(2), name="data")

    def sample(self, n):
        return torch.randn(n, 2)


# Known values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["bridge", "variance_exploding", "variance_preserving"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_of_a_sampler_known_in_closed_form(reference, dtype):
    dim, std = 2, 0.8
    agent, target = bridge(dim, reference=reference).to(dtype), gaussian(dim, std)
    x = sample_agent(agent, n=20_000)["x"].double()
    sigma = x.std().item()
    if reference != "variance_exploding":  # which starts from a Gaussian of its own width
        assert sigma == pytest.approx(1.0, abs=0.02)
    found = evaluate(agent, target, samples=20_000)
    sigma = 1.0 if reference != "variance_exploding" else math.sqrt(1 + agent.reference.initial_std**2)
    ratio = sigma**2 / std**2
    ess = (math.sqrt(2 * ratio - 1) / ratio) ** dim
    assert found["elbo"] == pytest.approx(LOG_Z - divergence(sigma, std, dim), abs=5 * found["elbo_stderr"])
    assert found["eubo"] == pytest.approx(LOG_Z + divergence(std, sigma, dim), abs=5 * found["eubo_stderr"])
    assert found["log_z"] == pytest.approx(LOG_Z, abs=5 * found["log_z_stderr"])
    assert found["true_log_z"] == LOG_Z
    assert found["ess_reverse"] == pytest.approx(ess, abs=0.03)
    assert found["ess_forward"] == pytest.approx(ess, abs=0.03)
    assert found["sandwich_width"] > 0
    assert warnings_of(found) == []


def test_an_exact_sampler_has_width_zero_and_no_warning():
    found = evaluate(bridge(2, 1.5), GaussianMixture([[0.0, 0.0]], std=1.5), samples=3_000)
    assert found["elbo"] == pytest.approx(0.0, abs=1e-4)
    assert found["eubo"] == pytest.approx(0.0, abs=1e-4)
    assert found["ess_reverse"] == pytest.approx(1.0, abs=1e-4)
    assert found["ess_forward"] == pytest.approx(1.0, abs=1e-4)
    assert found["sinkhorn"] == pytest.approx(found["sinkhorn_floor"], abs=0.1)
    assert found["mode_coverage"] == 1.0
    assert warnings_of(found) == []


def test_a_sampler_beyond_where_coordinates_are_held_is_refused():
    """Its states are finite, their densities are not those of what was drawn, and its bounds would be infinite."""
    agent = bridge(2, compression=3.0)
    with torch.no_grad():
        agent.generation.readout.linear.bias.fill_(1e30)
    for density in (GaussianMixture([[0.0, 0.0]], std=1.0), gaussian(2)):
        with pytest.raises(InputError, match="50 of 50 generated paths lead too far away; its training has diverged"):
            evaluate(agent, density, samples=50)


def test_a_collapsed_sampler_cannot_hide():
    found = evaluate(bridge(1), GaussianMixture([[0.0], [20.0]], std=1.0), samples=2_000)
    # What looks on from the generated side sees nothing but a constant:
    assert found["elbo"] == pytest.approx(-math.log(2), abs=1e-3)
    assert found["ess_reverse"] == pytest.approx(1.0, abs=1e-3)
    # What comes from the exact side does: half of the samples are 20 standard deviations off.
    assert found["eubo"] == pytest.approx(100.0, rel=0.1)
    assert found["ess_forward"] < 1e-6
    assert found["mode_coverage"] == 0.5
    assert found["mode_mass_error"] == pytest.approx(0.5)
    assert found["sinkhorn"] == pytest.approx(200.0, rel=0.15)
    words = " ".join(warnings_of(found))
    for name in (f"sandwich_width = {found['sandwich_width']:.3g} nats", "mode_coverage = 0.5", "ess_forward = "):
        assert name in words


# Keys and what is undefined -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "undefined"),
    [
        (Funnel(2), {"mode_coverage", "mode_mass_error", *LIKELIHOODS}),
        (
            gaussian(2, 0.8, sampled=False),
            {"eubo", "eubo_stderr", "eubo_median", "sandwich_width", "true_log_z", "ess_forward", "sinkhorn"}
            | {"sinkhorn_floor", "mode_coverage", "mode_mass_error", *LIKELIHOODS},
        ),
        (Data(), set(KEYS) - {"sinkhorn", "sinkhorn_floor", "samples", *LIKELIHOODS[3:]} - set(COST)),
    ],
    ids=["funnel", "density only", "samples only"],
)
def test_no_key_is_absent_and_only_what_is_undefined_is_none(target, undefined):
    agent = bridge(2)
    found = evaluate(agent, target, samples=200, **COST)
    assert list(found) == KEYS
    assert {key for key, value in found.items() if value is None} == undefined
    assert all(value is None or type(value) in (int, float) for value in found.values())
    assert found["samples"] == 200
    assert {key: found[key] for key in COST} == COST


def test_without_exact_samples_collapse_cannot_be_excluded_and_may_be_made_an_error():
    target = gaussian(sampled=False)
    (warning,) = warnings_of(evaluate(bridge(), target, samples=100))
    assert "eubo is unknown" in warning
    with pytest.raises(InputError, match="EUBO needs exact samples"):
        evaluate(bridge(), target, samples=100, require_eubo=True)
    with pytest.raises(InputError, match="EUBO needs a log density"):
        evaluate(bridge(2), Data(), samples=100, require_eubo=True)
    assert evaluate(bridge(), gaussian(), samples=100, require_eubo=True)["eubo"] is not None


def test_a_density_that_is_zero_somewhere():
    target = CallableTarget(lambda x: torch.where(x[:, 0] > 0, -0.5 * x[:, 0] ** 2, -math.inf), dim=1, name="half")
    found = evaluate(bridge(), target, samples=4_000)
    assert found["elbo"] == -math.inf
    assert found["elbo_stderr"] is None
    assert found["zero_density_share"] == pytest.approx(0.5, abs=0.04)
    assert found["ess_reverse"] == pytest.approx(0.5, abs=0.04)
    assert found["log_z"] == pytest.approx(0.5 * math.log(math.pi / 2), abs=0.1)
    for evaluation in (found, json.loads(as_json(found))):
        assert any("elbo is -inf" in line and "zero_density_share" in line for line in warnings_of(evaluation))


def test_nowhere_but_zero_density():
    target = CallableTarget(lambda x: torch.full_like(x[:, 0], -math.inf), dim=1, name="nothing")
    found = evaluate(bridge(), target, samples=50)
    assert (found["elbo"], found["log_z"], found["log_z_stderr"]) == (-math.inf, -math.inf, None)
    assert (found["ess_reverse"], found["khat"], found["zero_density_share"]) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 1}, "samples: expected a whole number >= 2"),
        ({"samples": 10.0}, "samples: expected"),
        ({"chunk": 0}, "chunk: expected a whole number >= 1, got 0"),
        ({"seed": -1}, "seed: expected"),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        evaluate(bridge(), gaussian(), **arguments)


def test_what_cannot_be_evaluated_is_named():
    with pytest.raises(InputError, match=r"gaussian.*dim=2.*dim=1"):
        evaluate(bridge(1), gaussian(2))
    agent = bridge()
    with torch.no_grad():
        agent.generation.readout.linear.bias.fill_(math.nan)
    for look in (evaluate, live_numbers):
        with pytest.raises(InputError, match=r"generation.readout.linear.bias is not finite"):
            look(agent, gaussian(), samples=10)


# Looking on -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [evaluate, live_numbers])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_has_changed_afterwards(look, fails):
    target = CallableTarget(
        (lambda x: x.sum(-1) * math.nan) if fails else (lambda x: -x.square().sum(-1)),
        dim=2,
        sample=lambda n: torch.from_numpy(numpy.random.randn(n, 2)).float() + torch.randn(n, 2),
    )
    agent = bridge(2, langevin=True, features=("raw", "score"))  # reads the gradient of the density
    agent.train()
    agent.backbone.eval()
    target.energy_calls, target.gradient_calls = 11, 13
    torch.rand(3), numpy.random.rand(3)
    before = [value.clone() for value in agent.state_dict().values()]
    modes = [module.training for module in agent.modules()]
    torch_state, numpy_state = torch.get_rng_state(), numpy.random.get_state()
    if fails:
        with pytest.raises(InputError, match="log_prob is nan"):
            look(agent, target, samples=50)
    else:
        look(agent, target, samples=50)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(numpy.array_equal(a, b) for a, b in zip(numpy.random.get_state(), numpy_state, strict=True))
    assert (target.energy_calls, target.gradient_calls) == (11, 13)
    assert [module.training for module in agent.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(agent.state_dict().values(), before, strict=True))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in agent.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device():
    agent, target = bridge(2).to("cuda"), GaussianMixture([[0.0, 0.0]], std=1.0).to("cuda")
    state = torch.cuda.get_rng_state()
    found = evaluate(agent, target, samples=500)
    assert found["sandwich_width"] == pytest.approx(0.0, abs=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert sample_agent(agent, target, n=5)["x"].is_cuda


def test_the_seed_alone_decides():
    agent, target = bridge(2), Funnel(2)
    first = evaluate(agent, target, samples=300, seed=3)
    torch.rand(100), numpy.random.rand(5)
    assert evaluate(agent, target, samples=300, seed=3) == first
    assert evaluate(agent, target, samples=300, seed=4)["elbo"] != first["elbo"]
    torch.manual_seed(3)
    assert evaluate(agent, target, samples=300, seed=3) == first


def test_all_agents_are_judged_on_the_same_exact_samples_whatever_the_chunk():
    # The weight of a bridge's path depends on its end alone, which is the exact sample.
    target = gaussian(1, 1.3)
    widths = [evaluate(bridge(steps=steps), target, samples=501, chunk=chunk) for steps, chunk in ((2, 501), (9, 7))]
    for key in ("eubo", "eubo_stderr", "eubo_median", "ess_forward", "sinkhorn_floor"):
        assert widths[0][key] == pytest.approx(widths[1][key], abs=1e-4)
    other = evaluate(bridge(), target, samples=501, seed=1)
    assert abs(other["eubo"] - widths[0]["eubo"]) > 1e-3


def test_evaluation_does_not_repeat_the_noise_of_a_training_from_the_same_seed():
    torch.manual_seed(0)
    trained_on = torch.randn(500, 1).square().mean().item()
    seen = []

    def sample(n):
        x = torch.randn(n, 1)
        seen.append(x.square().mean().item())
        return x

    evaluate(bridge(), CallableTarget(lambda x: -0.5 * x[:, 0] ** 2, dim=1, sample=sample), samples=500, seed=0)
    assert seen and all(abs(value - trained_on) > 1e-6 for value in seen)


# Chunks and sampling --------------------------------------------------------------------------------------------------


def test_chunks_bound_the_paths_held_at_a_time(monkeypatch):
    agent, target, sizes = bridge(2), gaussian(2), []
    generate, destroy = agent.generate, agent.destroy
    monkeypatch.setattr(agent, "generate", lambda n, *rest: (sizes.append(n), generate(n, *rest))[1])
    monkeypatch.setattr(agent, "destroy", lambda x, *rest: (sizes.append(len(x)), destroy(x, *rest))[1])
    evaluate(agent, target, samples=105, chunk=50)
    assert sizes == [50, 50, 5, 50, 50, 5]
    sizes.clear()
    evaluate(agent, target, samples=2_500)
    assert sizes == [2_000, 500, 2_000, 500]


def test_the_default_chunk_shrinks_with_the_size_of_a_path(monkeypatch):
    agent, sizes = bridge(2_000, steps=4), []
    generate = agent.generate
    monkeypatch.setattr(agent, "generate", lambda n, *rest: (sizes.append(n), generate(n, *rest))[1])
    sample_agent(agent, n=450)
    assert sizes == [200, 200, 50]


def test_chunking_estimates_the_same():
    agent, target = bridge(2), gaussian(2, 0.8)
    whole, parts = (evaluate(agent, target, samples=4_000, chunk=chunk) for chunk in (4_000, 500))
    assert whole["elbo"] != parts["elbo"]
    assert whole["elbo"] == pytest.approx(parts["elbo"], abs=5 * math.hypot(whole["elbo_stderr"], parts["elbo_stderr"]))
    assert whole["log_z"] == pytest.approx(
        parts["log_z"], abs=5 * math.hypot(whole["log_z_stderr"], parts["log_z_stderr"])
    )


@pytest.mark.parametrize("compression", [None, 3.0])
def test_samples_and_their_weights(compression):
    agent, target = bridge(2, compression=compression), gaussian(2, 0.8)
    drawn = sample_agent(agent, target, n=5_000, chunk=999)
    assert drawn["x"].shape == (5_000, 2)
    # Of a bridge, the weight is p(x) / N(u; 0, 1) · |dx/du|.
    normal = torch.distributions.Normal(0.0, 1.0)
    q = normal.log_prob(agent.space.coordinates(drawn["x"])).sum(-1) - agent.space.log_volume(drawn["x"])
    torch.testing.assert_close(drawn["log_weight"], target(drawn["x"]) - q, atol=1e-4, rtol=0.0)
    variance = drawn["log_weight"].softmax(0) @ drawn["x"].square()
    torch.testing.assert_close(variance, torch.full((2,), 0.64), atol=0.05, rtol=0.0)
    assert list(sample_agent(agent, n=3)) == list(sample_agent(agent, Data(), n=3)) == ["x"]
    with pytest.raises(InputError, match="samples: expected"):
        sample_agent(agent, n=0)
    with pytest.raises(InputError, match="pass the target"):
        sample_agent(bridge(2, langevin=True), n=3)


def test_nan_weights_are_an_error_that_counts_them():
    agent, target = bridge(), gaussian()
    x = torch.tensor([[0.0], [1.0], [2.0]])
    agent.log_ratio = lambda paths: torch.tensor([0.0, math.nan, math.nan])
    with pytest.raises(InputError, match="2 of 3 destroyed paths are NaN"):
        log_weights_of_destroyed(agent, target, x)


def test_live_numbers_agree_with_the_evaluation():
    agent, target = bridge(2), gaussian(2, 0.8)
    live, found = live_numbers(agent, target, 4_000, seed=5), evaluate(agent, target, samples=4_000, chunk=4_000)
    assert live["elbo"] == pytest.approx(found["elbo"], abs=5 * found["elbo_stderr"] * math.sqrt(2))
    assert live["eubo"] == pytest.approx(found["eubo"], abs=5 * found["eubo_stderr"] * math.sqrt(2))
    assert live["ess"] == pytest.approx(found["ess_reverse"], abs=0.05)
    assert live_numbers(agent, gaussian(2, sampled=False), 10)["eubo"] is None


# Warnings -------------------------------------------------------------------------------------------------------------

GOOD = {
    "elbo": -0.5,
    "elbo_stderr": 0.01,
    "eubo": 0.5,
    "eubo_stderr": 0.01,
    "sandwich_width": 1.0,
    "ess_reverse": 0.5,
    "ess_forward": 0.5,
    "khat": 0.3,
    "mode_coverage": 1.0,
    "zero_density_share": 0.0,
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"khat": 0.93}, "khat = 0.93 is above 0.7"),
        ({"khat": math.inf}, "khat = inf is above 0.7"),
        ({"ess_reverse": 0.004}, "ess_reverse = 0.004 is below 0.01"),
        ({"ess_forward": 0.0}, "ess_forward = 0 is below 0.01"),
        ({"sandwich_width": 42.0}, "sandwich_width = 42 nats is above 10"),
        ({"sandwich_width": math.inf}, "sandwich_width = inf nats is above 10"),
        ({"sandwich_width": -0.2}, "do not belong to each other"),
        ({"sandwich_width": -math.inf, "eubo": -math.inf, "eubo_stderr": None}, "do not belong to each other"),
        ({"mode_coverage": 0.96}, "mode_coverage = 0.96 is below 1"),
        ({"eubo": None, "sandwich_width": None}, "eubo is unknown"),
        ({"elbo": None, "sandwich_width": None}, "elbo is unknown"),
        ({"elbo": None, "zero_density_share": 0.25}, "zero_density_share = 0.25 of the generated samples"),
    ],
)
def test_each_warning_is_one_sentence_that_names_its_number(change, text):
    assert warnings_of(GOOD) == []
    (line,) = warnings_of(GOOD | change)
    assert text in line
    assert line.endswith(".") and "\n" not in line


def test_noise_around_a_width_of_zero_is_not_a_contradiction():
    assert warnings_of(GOOD | {"sandwich_width": -0.04}) == []


def test_samples_that_do_not_belong_to_the_density():
    wrong = CallableTarget(lambda x: -0.5 * x[:, 0] ** 2, dim=1, sample=lambda n: 0.2 * torch.randn(n, 1))
    agent = bridge(sigma=0.5)  # narrower than the density, wider than its alleged samples
    assert any("do not belong" in line for line in warnings_of(evaluate(agent, wrong, samples=1_000)))


# JSON -----------------------------------------------------------------------------------------------------------------


def strict(text: str) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_strict_complete_and_in_order(tmp_path):
    found = evaluate(bridge(2), Funnel(2), samples=100, energy_calls=10**12)
    found |= {"elbo": -math.inf, "khat": math.inf, "eubo": math.nan}
    write_evaluation(tmp_path / "evaluation.json", found)
    read = strict((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert list(read) == KEYS
    assert read["elbo"] is read["khat"] is read["eubo"] is None
    assert read["energy_calls"] == 10**12
    assert read["log_z"] == found["log_z"]
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "evaluation.json"
    write_evaluation(path, {"elbo": 1.0})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError):
        write_evaluation(path, {"elbo": 2.0})
    assert strict(path.read_text(encoding="utf-8")) == {"elbo": 1.0}
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError):
        write_evaluation(tmp_path / "missing" / "evaluation.json", {"elbo": 1.0})


def test_a_log_z_that_the_anchors_contradict_is_flagged():
    numbers = {"eubo": 0.5, "log_z": -3.0, "log_z_stderr": 0.1, "anchor_log_z": 0.0, "anchor_log_z_stderr": 0.2}
    (warning,) = warnings_of(numbers)
    assert "log_z = -3" in warning and "anchor_log_z = 0" in warning
    assert warnings_of({**numbers, "anchor_log_z": -2.0}) == []  # within one nat and five standard errors
    assert warnings_of({**numbers, "anchor_log_z": None}) == []
