"""`ebbflow bench`: what it measures, what it writes, how two results are compared, and what it refuses."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ebbflow.envs import Continuous, InputError, Target, get_target
from ebbflow.trainers import bench
from ebbflow.trainers.bench import Effort, measure
from ebbflow.trainers.bench_results import COUNTS, RATES, compare_results, load_result
from ebbflow.trainers.trainer import Trainer

SHORT = ("--rounds", 2, "--seconds", 0.01, "--warmup", 1, "--threads", 1, "--width", 8, "--batch-size", 16)


@pytest.fixture(scope="module")
def result():
    return measure("gmm25", batch_size=16, width=8, steps=3, threads=1, effort=Effort(2, 0.01, 1))


@pytest.fixture
def files(result, tmp_path):
    """The result as a.json, and one that is twice as fast, of T = 2 and another machine, as b.json."""
    other = copy.deepcopy(result)
    other["settings"]["steps"] = 2
    other["machine"]["device"] = "another [bold] one"
    for name in RATES:
        rate = other["results"][name]
        for key in ("median", "low", "high"):
            rate[key] = 2 * rate[key] if key == "median" else rate[key]
    (tmp_path / "a.json").write_text(json.dumps(result))
    (tmp_path / "b.json").write_text(json.dumps(other))
    return tmp_path


# Measuring ------------------------------------------------------------------------------------------------------------


def test_a_result_holds_every_setting_and_what_was_measured(result):
    assert result["settings"]["target"] == "gmm25" and result["settings"]["agent"]["width"] == 8
    assert result["settings"]["variant"] == "adaptive" and result["settings"]["rounds"] == 2
    assert result["versions"]["torch"] == torch.__version__ and result["machine"]["threads"] == 1
    assert result["machine"]["device"]
    for name in RATES:
        rate = result["results"][name]
        assert 0 < rate["low"] <= rate["median"] <= rate["high"] and len(rate["rounds"]) == 2
    assert result["results"]["energy_calls_per_iteration"] == 8  # of 16 rows, 8 are new
    assert result["results"]["gradient_calls_per_iteration"] == 0
    assert result["results"]["peak_memory_bytes"] > 1e8  # torch alone is more
    assert 0 < result["results"]["processor_share"] < 1.5
    json.dumps(result, allow_nan=False)


def test_rates_are_amounts_a_second(monkeypatch):
    """By a clock that the work itself moves on."""
    now = 0.0
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now)
    durations = iter([9.0, 0.5, 0.5, 0.5, 1.0, 1.0])

    def work():
        nonlocal now
        now += next(durations)

    rates = bench._rates({"some": (work, 10)}, Effort(rounds=2, seconds=1.0), torch.device("cpu"))
    assert rates == {"some": [20.0, 10.0]}  # two calls a round
    assert bench._summary(rates["some"]) == {"median": 15.0, "low": 10.0, "high": 20.0, "rounds": [20.0, 10.0]}


def test_the_replay_is_full_when_it_is_measured(tiny):
    trainer = Trainer(get_target("gmm25"), tiny(replay={"capacity": 600}))
    trainer.prepare()
    bench._fill(trainer)
    assert len(trainer.replay) == 600


@pytest.mark.parametrize("name", ["conditional-gmm", "funnel"])
def test_other_targets_and_variants(name):
    found = measure(name, batch_size=8, width=4, steps=2, variant="generation", effort=Effort(1, 0.01, 1))
    assert found["settings"]["agent"]["destruction_mean"] == "reference"
    assert all(found["results"][rate]["median"] > 0 for rate in RATES)


NO_ENERGIES = ("energy_calls_per_second", "gradient_calls_per_second")
DATA = {  # number of steps and what is learned from, where nothing is said of them
    "two-moons": (5, "maximum_likelihood", NO_ENERGIES),
    "digits-binary": (64, "random_level", NO_ENERGIES),
    "digits-autoregressive": (64, "random_level", NO_ENERGIES),
    "potts": (6, "vargrad", NO_ENERGIES[1:]),
}


@pytest.mark.parametrize("name", DATA)
def test_data_and_tokens(name):
    found = measure(name, batch_size=8, width=4, effort=Effort(1, 0.01, 1))
    steps, objective, without = DATA[name]
    assert (found["settings"]["steps"], found["settings"]["objective"]) == (steps, objective)
    for rate in RATES:
        assert found["results"][rate] is None if rate in without else found["results"][rate]["median"] > 0
    assert found["results"]["energy_calls_per_iteration"] == (4 if name == "potts" else 0)
    assert found["results"]["gradient_calls_per_iteration"] == 0
    json.dumps(found, allow_nan=False)


class Pairs(Target):
    """Points at contexts, without a density."""

    def __init__(self):
        super().__init__(Continuous(2))
        self.context_space = Continuous(1)

    def sample_context(self, n):
        return torch.rand(n, 1)

    def sample(self, n, context):
        return context + torch.randn(n, 2)


def test_contexts_of_data(densities):
    densities.mine = Pairs
    found = measure("densities:mine", batch_size=8, width=4, effort=Effort(1, 0.01, 1))
    assert found["results"]["samples_per_second"]["median"] > 0


def test_a_preset_is_its_target_and_its_settings():
    preset = measure("digits-autoregressive", batch_size=4, effort=Effort(1, 0.01, 1))["settings"]
    assert (preset["target"], preset["agent"]["reference"], preset["agent"]["width"]) == (
        "digits-tokens",
        "mask_last",
        256,
    )
    assert preset["threads"] == 1 and preset["batch_size"] == 4


def test_settings_of_iterations(monkeypatch):
    """They reach the trainer; what they do there is tested elsewhere."""
    seen = []
    plain = Trainer.__init__

    def record(trainer, target, config, *args, **kwargs):
        seen.append(config)
        plain(trainer, target, replace(config, compile=False, cuda_graphs=False), *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", record)
    given = {"compile": True, "cuda_graphs": True, "chunk": 1, "matmul_precision": "bfloat16"}
    result = measure("gmm25", batch_size=8, width=4, steps=2, effort=Effort(1, 0.01, 1), **given)
    assert {name: getattr(seen[0], name) for name in given} == given
    assert result["settings"]["matmul_precision"] == "bfloat16" and result["settings"]["chunk"] == 1


def test_a_density_without_gradient_is_refused(densities):
    densities.mine = lambda x: (-0.5 * x.square().sum(-1)).detach()
    with pytest.raises(InputError, match="not differentiable"):
        measure("densities:mine", dim=2, batch_size=8, width=4, effort=Effort(1, 0.01, 1))


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_shows_and_writes(ebbflow, tmp_path):
    found = ebbflow("bench", "gmm25", "--steps", 2, *SHORT, "--out", "some/bench.json")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("gmm25, T = 2, batch 16, width 8, adaptive; ")
    for unit in ("iterations/s", "samples/s", "energy calls/s", "gradient calls/s", "calls/iteration", "MB"):
        assert unit in found.out
    saved = load_result(tmp_path / "some/bench.json")
    assert saved["settings"]["steps"] == 2 and set(saved["results"]) >= {*RATES, *COUNTS}
    assert [path.name for path in tmp_path.iterdir()] == ["some"]


def test_the_command_prints_json_and_nothing_else(ebbflow):
    found = ebbflow("bench", "gmm25", *SHORT, "--json")
    assert found.code == 0 and json.loads(found.out)["settings"]["batch_size"] == 16


MISTAKES = {
    "": "target: expected a name, plugin or package.module:attribute",
    "gmm52": "target: unknown name 'gmm52'; did you mean gmm25",
    "gmm25 --steps 0": "steps: expected a whole number >= 1, got 0",
    "gmm25 --batch-size 1": "batch_size: expected a whole number >= 2, got 1",
    "gmm25 --width 0": "width: expected a whole number >= 1, got 0",
    "gmm25 --variant x": "variant: expected 'fixed', 'generation' or 'adaptive', got 'x'",
    "gmm25 --device frob": "device: expected one that torch can use here, got 'frob'",
    "gmm25 --threads 0": "threads: expected a whole number >= 1, got 0",
    "gmm25 --seed -1": "seed: expected a whole number >= 0, got -1",
    "gmm25 --rounds 0": "rounds: expected a whole number >= 1, got 0",
    "gmm25 --warmup 0": "warmup: expected a whole number >= 1, got 0",
    "gmm25 --seconds 0": "seconds: expected a finite number > 0, got 0.0",
    "gmm25 --cuda-graphs": "cuda_graphs: expected False without compile",
    "digits-binary --compile": "compile: expected False for a DenoisingAgent",
    "digits-binary --chunk 2": "chunk: expected None for a DenoisingAgent",
    "digits-binary --steps 3": "steps: ",
    "gmm25 --out bench.txt": "out: expected a file name ending in .json, got 'bench.txt'",
    "gmm25 --compare a.json b.json": "compare: expected neither a target nor an out beside it",
    "--compare a.json b.json": "compare: expected a file that `ebbflow bench --out` has written, got 'a.json' (No such",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, ebbflow, tmp_path):
    found = ebbflow("bench", *words.split())
    assert (found.code, found.out) == (2, "")
    assert found.message.startswith(MISTAKES[words])
    assert list(tmp_path.iterdir()) == []


# Comparing ------------------------------------------------------------------------------------------------------------


def test_two_results_side_by_side(files, ebbflow):
    found = ebbflow("bench", "--compare", "a.json", "b.json")
    assert (found.code, found.err) == (0, "")
    lines = found.out.splitlines()
    assert lines[:2] == ["a: a.json", "b: b.json"]
    (training,) = (line for line in lines if "iterations/s" in line)
    assert "2.00" in training and "overlap" in training
    assert "  settings.steps: 3 | 2" in lines
    assert any(line.endswith(" | another [bold] one") for line in lines)
    assert not any("batch_size" in line for line in lines)


def test_the_same_result_twice(files, ebbflow):
    assert "the same settings, versions and machine" in ebbflow("bench", "--compare", "a.json", "a.json").out


def test_a_comparison_as_json(files, ebbflow):
    found = json.loads(ebbflow("bench", "--compare", "a.json", "b.json", "--json").out)
    assert found["ratios"]["samples_per_second"]["ratio"] == pytest.approx(2.0)
    assert found["differing"]["settings.steps"] == [3, 2]


def test_data_beside_a_density(result, files, ebbflow):
    data = measure("two-moons", batch_size=8, width=4, effort=Effort(1, 0.01, 1))
    (files / "b.json").write_text(json.dumps(data))
    assert load_result(files / "b.json")["results"] == data["results"]
    ratios, differing = compare_results(result, data)
    assert ratios["samples_per_second"].ratio > 0 and ratios["energy_calls_per_second"].after is None
    assert ratios["energy_calls_per_iteration"].ratio == 0.0
    assert differing["settings.objective"] == ("vargrad", "maximum_likelihood")
    found = ebbflow("bench", "--compare", "a.json", "b.json")
    assert found.code == 0 and "energy calls/s" in found.out


def test_what_was_not_measured_has_no_ratio(result):
    other = copy.deepcopy(result)
    other["results"]["gradient_calls_per_second"] = None
    ratios, differing = compare_results(result, other)
    assert ratios["gradient_calls_per_second"].ratio is None and ratios["gradient_calls_per_second"].apart is None
    assert ratios["gradient_calls_per_iteration"].ratio is None  # 0 / 0
    assert ratios["peak_memory_bytes"].ratio == 1.0 and differing == {}


def test_a_busy_machine_is_told(files, ebbflow):
    busy = json.loads((files / "a.json").read_text())
    busy["results"]["processor_share"] = 0.5
    (files / "b.json").write_text(json.dumps(busy))
    assert "b: a busy machine: only 50% of a processor" in ebbflow("bench", "--compare", "a.json", "b.json").out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "(not valid JSON: "),
        ("[1]", "(a table of settings, versions, machine, results is not in it)"),
        ('{"target": "gmm25"}', "(a table of settings, versions, machine, results is not in it)"),
        (
            '{"settings": {}, "versions": {}, "machine": {}, "results": {"samples_per_second": 3}}',
            "(its results are not rates with median, low and high)",
        ),
        (
            '{"settings": {}, "versions": {}, "machine": {}, "results": {"peak_memory_bytes": "x"}}',
            "(its results are not numbers)",
        ),
    ],
)
def test_what_is_no_result_is_refused(text, reason, files, ebbflow):
    (files / "b.json").write_text(text)
    found = ebbflow("bench", "--compare", "a.json", "b.json")
    assert (found.code, found.out) == (2, "")
    assert found.message.startswith("compare: expected a file that `ebbflow bench --out` has written, got 'b.json' (")
    assert reason in found.message


def test_comparing_leaves_torch_alone(files):
    words = ["bench", "--compare", "a.json", "b.json"]
    script = f"import sys; from ebbflow.trainers.cli import main; main({words}); sys.exit('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=files, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
