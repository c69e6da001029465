"""Comparing runs: which belong together, what their numbers say, and every form in which that is told."""

import csv
import io
import json
import math
import statistics
import subprocess
import sys

import numpy
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from ebbflow.envs.errors import InputError
from ebbflow.trainers.comparison import NUMBERS, Group, Run, find_runs, group_runs
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.figures.comparison import comparison_figure
from ebbflow.trainers.run_folder import flatten
from ebbflow.trainers.tabulation import as_csv, as_json, as_markdown, print_table

EVALUATION = {
    **{"elbo": 1.0, "elbo_stderr": 0.1, "eubo": 4.0, "eubo_stderr": 0.1, "eubo_median": 3.5, "sandwich_width": 3.0},
    **{"log_z": 2.25, "log_z_stderr": 0.02, "true_log_z": 2.0, "ess_reverse": 0.5, "ess_forward": 0.25, "khat": None},
    **{"sinkhorn": 1.5, "sinkhorn_floor": 1.0, "mode_coverage": 1.0, "zero_density_share": 0.0},
    **{"energy_calls": 1000, "gradient_calls": 10, "seconds": 60.0},
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a finished run of the given settings (dotted) and numbers, without training."""
    monkeypatch.chdir(tmp_path)

    def run(name, target="gmm25", evaluation=None, **settings):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = TrainConfig.from_dict({"target": target, "steps": 5, **settings})
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        (folder / "evaluation.json").write_text(json.dumps({**EVALUATION, **(evaluation or {})}))
        return folder

    return run


def compare(*paths):
    return group_runs(find_runs(paths)[0])


# Groups ---------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_a_group(make):
    for seed, elbo in enumerate((1.0, 0.5, -0.75)):
        make(f"runs/{seed}", seed=seed, evaluation={"elbo": elbo})
    make("runs/other", seed=1, agent={"width": 64})
    make("runs/longer", seed=1, steps=10, agent={"width": 64})
    groups = compare("runs")
    assert [group.record["seeds"] for group in groups] == [[0, 1, 2], [1], [1]]
    assert [group.record["settings"] for group in groups] == [{"agent.width": w} for w in (128, 64, 64)]
    assert [(group.labels["T"], group.labels["settings"]) for group in groups] == [
        ("5", "defaults"),
        ("5", "width=64"),
        ("10", "width=64"),
    ]
    found = groups[0].summary("elbo_gap")
    gaps = [-1.0, -1.5, -2.75]
    assert found == (pytest.approx(statistics.fmean(gaps)), pytest.approx(statistics.stdev(gaps)), 3)
    assert groups[1].summary("elbo_gap") == (-1.0, None, 1)


def test_targets_are_kept_apart_and_together(make):
    make("a", target="gmm25")
    make("b", target="funnel")
    make("c", target="gmm25", steps=10)
    groups = compare("c", "b", "a")
    assert [(group.labels["target"], group.labels["T"]) for group in groups] == [
        ("gmm25", "5"),
        ("gmm25", "10"),
        ("funnel", "5"),
    ]
    assert "settings" not in groups[0].labels  # nothing but target and T differs


def test_a_setting_is_named_in_full_where_its_last_part_is_not_enough(make):
    make("a", destruction_optimiser={"rate": 0.5}, agent={"features": ["raw"]})
    make("b", destruction_optimiser={"rate": 0.25})
    assert [group.labels["settings"] for group in compare("a", "b")] == [
        "features=raw\ndestruction_optimiser.rate=0.5",
        "destruction_optimiser.rate=0.25",
    ]


def test_numbers_are_gaps_where_the_truth_is_known_and_themselves_elsewhere(make):
    make("a")
    make("b", target="funnel", evaluation={"true_log_z": None, "eubo": None, "eubo_median": None})
    known, unknown = compare("a", "b")
    expected = {"elbo_gap": -1.0, "eubo_gap": 2.0, "eubo_median_gap": 1.5, "width": 3.0, "median_width": 2.5}
    assert {name: known.summary(name).mean for name in expected} == expected
    assert known.summary("log_z_error").mean == 0.25
    assert known.summary("elbo") is None and known.summary("log_z") is None
    assert unknown.summary("elbo").mean == 1.0 and unknown.summary("log_z").mean == 2.25
    assert unknown.summary("elbo_gap") is None and unknown.summary("width") is None


def test_an_elbo_of_minus_infinity_is_not_left_out_of_the_mean(make):
    """JSON writes it as null; a mean over the other seeds would hide the failure."""
    make("a", seed=0)
    make("b", seed=1, evaluation={"elbo": None, "sandwich_width": None, "zero_density_share": 0.5})
    (group,) = compare("a", "b")
    assert group.summary("elbo_gap") == (-math.inf, None, 2)
    assert group.summary("width") == (math.inf, None, 2)
    assert "| -inf |" in as_markdown([group])
    assert json.loads(as_json([group]), parse_constant=pytest.fail)[0]["elbo_gap"]["mean"] is None


def test_a_number_that_some_runs_lack_says_so(make):
    make("a", seed=0, evaluation={"ess_reverse": None})
    make("b", seed=1)
    assert "| 0.500 (1 of 2) |" in as_markdown(compare("a", "b"))


# Where runs are found -------------------------------------------------------------------------------------------------


def test_runs_are_found_by_folder_parent_and_pattern_each_once(make, tmp_path):
    made = [make(name, seed=seed) for seed, name in enumerate(("runs/a", "runs/deep/b", "more/c"))]
    (tmp_path / "runs/site").mkdir()
    (tmp_path / "runs/site/config.json").write_text('{"name": "of another program"}')
    runs, remarks = find_runs(["runs", "*/deep", tmp_path / "more/c", "runs/a", "m*/*"])
    assert [run.folder.resolve() for run in runs] == made and remarks == []


MISTAKES = {
    "nowhere": "run: expected a run folder with a config.json, got 'nowhere'",
    "no*": "run: expected a run folder with a config.json, got 'no*'",
    "empty": "run: expected a run folder, or a folder that holds some, got 'empty'",
    "file": "run: expected a run folder with a config.json, got 'file'",
    "unfinished": "run unfinished: evaluation.json is not there; make one with: ebbflow evaluate unfinished",
    "cut": "run cut: evaluation.json is not a valid JSON object; make one with: ebbflow evaluate cut",
    "list": "run list: evaluation.json is not a valid JSON object; make one with: ebbflow evaluate list",
    "unreadable": "unreadable/config.json: not valid JSON (",
    "newer": "newer/config.json: unknown setting 'frob'; known: ",
}


@pytest.fixture
def mistakes(make, tmp_path):
    (make("unfinished") / "evaluation.json").unlink()
    (make("cut") / "evaluation.json").write_text('{"elbo": 1')
    (make("list") / "evaluation.json").write_text("[1]")
    (make("unreadable") / "config.json").write_text("{")
    (make("newer") / "config.json").write_text('{"frob": 1}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_finished_run_is_one_line(name, mistakes, make, ebbflow):
    make("fine")
    found = ebbflow("compare", "fine", name)
    assert (found.code, found.out) == (2, "")
    assert found.message.startswith(MISTAKES[name])


def test_unfinished_runs_met_on_the_way_are_left_out_aloud(make, ebbflow):
    (make("runs/a") / "evaluation.json").unlink()
    alone = ebbflow("compare")
    assert alone.code == 2 and alone.message.startswith("run runs/a: evaluation.json is not there; make one with: ")
    make("runs/b", seed=7)
    found = ebbflow("compare", "--json")
    assert found.code == 0 and [group["seeds"] for group in json.loads(found.out)] == [[7]]
    assert found.message.startswith("left out: run runs/a: evaluation.json is not there")


# Forms ----------------------------------------------------------------------------------------------------------------


def test_the_table_is_as_wide_as_the_terminal(make):
    for seed in (0, 1):
        make(f"a{seed}", seed=seed, evaluation={"elbo": 1.0 - seed})
        make(f"b{seed}", seed=seed, agent={"width": 64, "depth": 3})
    groups = compare("a*", "b*")
    shown = {}
    for width in (40, 80, 300):
        file = io.StringIO()
        print_table(groups, Console(file=file, width=width))
        shown[width] = file.getvalue()
        assert max(map(len, shown[width].splitlines())) <= width
        for words in ("ELBO gap", "-1.50 ± 0.71", "width=64", "depth=3", "0, 1", "seconds", "log Z error"):
            assert words in shown[width], (width, words)
    assert shown[300].count("\n") == 4 and "#" not in shown[300]  # one table; two settings take two lines
    assert shown[80].count("#") >= 2


def test_csv_has_a_column_for_each_setting_and_number(make):
    make("a", seed=0)
    make("b", seed=1, evaluation={"elbo": 0.0})
    make("c", seed=0, agent={"features": ["raw", "asinh"]})
    rows = list(csv.DictReader(io.StringIO(as_csv(compare("a", "b", "c")))))
    assert [row["seeds"] for row in rows] == ["0 1", "0"]
    assert [row["agent.features"] for row in rows] == ["raw asinh fourier", "raw asinh"]
    assert [float(row["elbo_gap"]) for row in rows] == [-1.5, -1.0]
    assert [row["elbo_gap_sd"] for row in rows] == [str(statistics.stdev([-1.0, -2.0])), ""]
    assert "log_z" not in rows[0] and "khat" not in rows[0]


def test_the_command_writes_every_form(make, ebbflow, tmp_path):
    make("a", seed=0)
    make("b", seed=1)
    words = ("--csv", "t.csv", "--markdown", "t.md", "--figure", "t.png", "--json")
    found = ebbflow("compare", "a", "b", *words)
    assert (found.code, found.err) == (0, "")
    (group,) = json.loads(found.out)
    assert group["target"] == "gmm25" and group["runs"] == ["a", "b"]
    assert group["width"] == {"mean": 3.0, "sd": 0.0, "runs": 2}
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2
    assert (tmp_path / "t.md").read_text().splitlines()[2].startswith("| gmm25 | 5 | 0, 1 | -1.00 |")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    refused = ebbflow("compare", "a", "--figure", "t.doc")
    assert refused.message == "figure: expected a file name ending in .png, .pdf or .svg, got 't.doc'"


def drawn(figure: Figure, label: str) -> list[float]:
    """Horizontal places of the marks that go by this label in the left panel."""
    (container,) = [c for c in figure.axes[0].containers if c.get_label() == label]
    return list(map(float, container.lines[0].get_xdata()))


def test_the_figure_shows_the_sandwich_around_log_z(make):
    make("a")
    make("b", target="funnel", evaluation={"true_log_z": None})
    known, unknown = compare("a", "b")
    figure = comparison_figure([known])
    assert drawn(figure, "ELBO") == [-1.0] and drawn(figure, "EUBO") == [2.0]
    assert drawn(figure, "log Z, importance-weighted") == [0.25]
    figure = comparison_figure([unknown])  # around its own estimate, 2.25
    assert drawn(figure, "ELBO") == [-1.25] and drawn(figure, "EUBO") == [1.75]
    figure = comparison_figure([known, unknown])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["gmm25", "funnel"]


@pytest.mark.parametrize(
    "evaluation",
    [
        {"elbo": None, "zero_density_share": 1.0, "log_z": None},
        {"eubo": None, "eubo_median": None, "true_log_z": None},
        {"elbo": -1e30, "eubo": 1e30},
        dict.fromkeys(EVALUATION),
    ],
)
def test_any_evaluation_can_be_told_and_drawn(evaluation, make):
    make("a", evaluation=evaluation)
    make("b", agent={"width": 2})
    groups = compare("a", "b")
    for form in (as_csv, as_json, as_markdown):
        assert form(groups) and form(groups[:1])
    for few in (groups, groups[:1]):
        print_table(few, Console(file=io.StringIO(), width=60))
    figure = comparison_figure(groups)
    figure.draw_without_rendering()
    assert all(numpy.isfinite(axes.get_xlim()).all() for axes in figure.axes)


def test_the_numbers_are_those_of_an_evaluation():
    """A column without a key behind it would be empty for ever."""
    more = {
        "worst_right_mass_error": 0.1,
        "cpu_seconds": 1.0,
        "bits_per_dimension": 1.0,
        "train_bits_per_dimension": 1.0,
    }
    numpy.testing.assert_allclose(
        [number.of({**EVALUATION, **more}) is None for number in NUMBERS],
        [number.name in ("elbo", "eubo", "eubo_median", "log_z") for number in NUMBERS],
    )
    assert Group({}, []).summary("width") is None


def test_a_real_run_can_be_compared(ebbflow, flags, monkeypatch):
    monkeypatch.setattr("ebbflow.trainers.train.write_figures", lambda *_: None)
    for seed in (0, 1):
        assert ebbflow("train", "gmm25", *flags("--seed", seed, "--out", f"runs/{seed}")).code == 0
    (group,) = json.loads(ebbflow("compare", "--json").out)
    assert group["seeds"] == [0, 1] and group["elbo_gap"]["runs"] == 2 and group["elbo_gap"]["sd"] > 0
    assert set(EVALUATION) >= {"elbo", "eubo"} and "sinkhorn" in group


def test_comparing_leaves_torch_alone(make):
    make("a")
    code = "import sys; from ebbflow.trainers.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "compare", "a"]
    result = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "False"


def test_settings_can_be_ignored(tmp_path):
    settings = [flatten(TrainConfig(target="gmm25", steps=5, seed=seed).to_dict()) for seed in range(2)]
    settings[1]["agent.time_grid_power"] = 3.7
    runs = [Run(tmp_path, values, {"elbo": -1.0}) for values in settings]
    assert len(group_runs(runs)) == 2
    (group,) = group_runs(runs, ignore=["agent.time_grid_power"])
    assert group.labels == {"target": "gmm25", "T": "5", "seeds": "0, 1"}
    with pytest.raises(InputError, match=r"ignore: expected names of settings.*'agent.power'"):
        group_runs(runs, ignore=["agent.power"])
