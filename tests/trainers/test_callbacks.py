"""What looks on while the trainer works."""

import csv
import io
import math

import pytest
from rich.console import Console

from ebbflow.envs import CallableTarget, InputError, get_target
from ebbflow.trainers.callbacks import Callback, CheckpointSaver, MetricsLogger, NaNGuard, ProgressBar, read_metrics
from ebbflow.trainers.checkpoint import load_checkpoint
from ebbflow.trainers.config import OPTIMISERS
from ebbflow.trainers.trainer import Trainer


def train(config, *callbacks, target=None):
    trainer = Trainer(target or get_target(config.target), config, callbacks)
    trainer.train()
    return trainer


def normal(x):
    return -0.5 * x.square().sum(-1)


def test_hooks_are_called_around_every_iteration(tiny):
    calls = []

    class Recorder(Callback):
        def on_start(self, trainer):
            calls.append(("start", trainer.iteration))

        def on_iteration(self, trainer, losses):
            assert {"loss_generation", "loss_destruction", "loss_log_z"} <= set(losses.keys())
            assert not any(value.requires_grad for value in losses.values())
            calls.append(("iteration", trainer.iteration))

        def on_end(self, trainer):
            calls.append(("end", trainer.iteration))

    trainer = Trainer(get_target("gmm25"), tiny(iterations=3), [Recorder()])
    trainer.train(until=2)
    trainer.train()
    trainer.train()
    assert calls == [
        *[("start", 0), ("iteration", 1), ("iteration", 2), ("end", 2)],
        *[("start", 2), ("iteration", 3), ("end", 3)],
        *[("start", 3), ("end", 3)],
    ]


def test_a_callback_can_stop_the_run(tiny):
    class Stop(Callback):
        def on_iteration(self, trainer, losses):
            trainer.stop_requested = trainer.iteration == 4

    assert train(tiny(), Stop()).iteration == 4


# NaN guard ------------------------------------------------------------------------------------------------------------


class Overflowing:
    """A normal density that is far too large, for single precision squares, in some calls of the density."""

    def __init__(self, when):
        self.when = when
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return normal(x) + (1e30 if self.when(self.calls) else 0.0)


def on_policy(tiny, **changes):
    """Settings where the density is called once to prepare, and then once an iteration."""
    return tiny(replay={"share": 0.0}, **changes)


def test_the_guard_ends_a_run_that_only_skips(tiny):
    density = Overflowing(lambda call: call > 5)  # in iterations 5, 6, 7, ...
    with pytest.raises(InputError, match=r"3 iterations in a row \(iteration 7\).*generation_optimiser.rate"):
        train(on_policy(tiny), NaNGuard(patience=3), target=CallableTarget(density, 2))


def test_the_guard_lets_single_skips_pass(tiny):
    density = Overflowing(lambda call: call > 1 and call % 3 != 0)
    trainer = train(on_policy(tiny), NaNGuard(patience=3), target=CallableTarget(density, 2))
    assert (trainer.iteration, trainer.skipped) == (12, 8)


def test_the_guard_does_not_count_what_was_skipped_before_it_came(tiny):
    trainer = Trainer(CallableTarget(normal, 2), on_policy(tiny), [NaNGuard(patience=1)])
    trainer.skipped = 5  # as after a resume
    trainer.train()
    assert trainer.iteration == 12


def test_the_guard_looks_when_the_trainer_does(tiny):
    density = Overflowing(lambda call: call > 5)  # in iterations 5, 6, 7, ...
    trainer = Trainer(CallableTarget(density, 2), on_policy(tiny), [NaNGuard(patience=3)])
    trainer.look_every = 5
    with pytest.raises(InputError, match=r"6 iterations in a row \(iteration 10\)"):
        trainer.train()


# Metrics --------------------------------------------------------------------------------------------------------------


def test_metrics_are_rows_of_numbers(tiny, tmp_path):
    path = tmp_path / "metrics.csv"
    logger = MetricsLogger(path, samples=32)
    trainer = train(tiny(iterations=7, log_every=3), logger)
    rows = read_metrics(path)
    assert rows == logger.rows
    assert [row["iteration"] for row in rows] == [3, 6]
    assert tuple(rows[0]) == MetricsLogger.COLUMNS
    assert path.read_text().splitlines()[0] == ",".join(MetricsLogger.COLUMNS)
    blank = {"search_acceptance", "bits_per_dimension", "train_bits_per_dimension"}
    assert {name for row in rows for name, value in row.items() if value is None} == blank
    assert all(math.isfinite(value) for row in rows for name, value in row.items() if name not in blank)
    assert [(row["search_acceptance"], row["search_share"]) for row in rows] == [(None, 0.0)] * 2
    assert 0 < rows[0]["ess"] <= 1 and rows[0]["elbo"] < rows[0]["eubo"]
    assert rows[0]["energy_calls"] < rows[1]["energy_calls"] < trainer.energy_calls
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] < trainer.seconds


def test_metrics_of_local_search(tiny, tmp_path):
    path = tmp_path / "metrics.csv"
    search = {"kind": "mala", "every": 4, "states": 10, "moves": 2}
    trainer = train(tiny(iterations=6, log_every=2, local_search=search), MetricsLogger(path, samples=32))
    first, *others = read_metrics(path)
    assert (first["search_acceptance"], first["search_share"]) == (None, 0.0)
    for row in others:
        assert row["search_acceptance"] == trainer.local_search.acceptance > 0
        assert 0 < row["search_share"] < 1


def test_without_exact_samples_the_eubo_is_blank(tiny, tmp_path):
    path = tmp_path / "metrics.csv"
    logger = MetricsLogger(path)
    train(tiny(iterations=2), logger, target=CallableTarget(normal, 2))
    (row,) = read_metrics(path)
    assert row["eubo"] is None
    assert row == logger.rows[0]


def test_live_numbers_are_those_of_the_averaged_agent(tiny):
    """With an average that hardly moves they are those of the untrained agent."""
    slow, none = MetricsLogger(), MetricsLogger()
    constant = {name: {"schedule": "constant"} for name in OPTIMISERS}
    config = tiny(iterations=40, log_every=40, average_decay=0.9999, **constant)
    train(config, slow)
    train(tiny(iterations=40, log_every=40, average_decay=0.0, **constant), none)
    assert none.rows[0]["elbo"] - slow.rows[0]["elbo"] > 0.5
    assert slow.rows[0]["loss_generation"] == none.rows[0]["loss_generation"]


def test_rows_behind_the_trainer_are_dropped(tiny, tmp_path):
    path = tmp_path / "metrics.csv"
    config = tiny(iterations=6)
    train(config, MetricsLogger(path))
    whole = read_metrics(path)
    behind = Trainer(get_target("gmm25"), config, [logger := MetricsLogger(path)])
    behind.train(until=3)  # starts again from 0
    assert [row["iteration"] for row in read_metrics(path)] == [2]
    assert logger.rows[0]["elbo"] == whole[0]["elbo"]


def test_where_looking_is_not_free_a_row_is_there_one_iteration_later(tiny):
    class Count(Callback):
        def __init__(self, logger):
            self.logger, self.rows = logger, []

        def on_iteration(self, trainer, losses):
            self.rows.append(len(self.logger.rows))

    found = {}
    for look_every in (1, 50):
        logger = MetricsLogger(samples=32)
        count = Count(logger)
        trainer = Trainer(get_target("gmm25"), tiny(iterations=6, log_every=3), [logger, count])
        trainer.look_every = look_every
        trainer.train()
        assert count.rows == ([0, 0, 1, 1, 1, 2] if look_every == 1 else [0, 0, 0, 1, 1, 1])
        found[look_every] = [{k: v for k, v in row.items() if k != "seconds"} for row in logger.rows]
    assert found[1] == found[50] and len(found[1]) == 2


def test_what_the_density_has_to_say_about_live_numbers_is_said_first(tiny):
    def breaks(x):
        return normal(x) * (math.nan if len(x) == 33 else 1.0)  # of live numbers alone

    trainer = Trainer(CallableTarget(breaks, 2), tiny(iterations=6, log_every=2), [MetricsLogger(samples=33)])
    trainer.look_every = 50
    with pytest.raises(InputError, match="log_prob is nan for 33 of"):
        trainer.train()


LINE = "2,1.5,2.5,0.25,0.0,-1.0,-3.0,,0.5,,,0,120,80,,0.0,0.125"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", 0),
        ("iteration,loss", 0),
        (",".join(MetricsLogger.COLUMNS), 0),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, LINE, ""]), 2),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, LINE[:30]]), 1),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, LINE[:13], LINE]), 1),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, LINE + ",7", LINE]), 1),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, "what" + LINE, LINE]), 1),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, LINE[1:], LINE]), 1),
        ("\n".join([",".join(MetricsLogger.COLUMNS[::-1]), LINE]), 0),
        ("\n".join([",".join(MetricsLogger.COLUMNS), LINE, "\x00\ufffd", LINE]), 1),
    ],
)
def test_rows_up_to_the_first_broken_one_are_read(text, kept, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    rows = read_metrics(path)
    assert len(rows) == kept
    for row in rows:
        assert [row["iteration"], row["elbo"], row["eubo"], row["energy_calls"]] == [2, -3.0, None, 120]
        assert isinstance(row["energy_calls"], int) and isinstance(row["elbo"], float)


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "no.csv") == []


def test_infinite_numbers_survive(tmp_path):
    path = tmp_path / "metrics.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, MetricsLogger.COLUMNS)
        writer.writeheader()
        writer.writerow({name: 1 for name in MetricsLogger.COLUMNS} | {"elbo": -math.inf, "ess": math.nan})
    (row,) = read_metrics(path)
    assert row["elbo"] == -math.inf and math.isnan(row["ess"])


# Progress and checkpoints ---------------------------------------------------------------------------------------------


def drawn(tiny, **settings):
    out = io.StringIO()
    logger = MetricsLogger(samples=16)
    console = Console(file=out, width=100, **settings)
    train(tiny(iterations=4), logger, ProgressBar(logger, console))
    return out.getvalue()


def test_the_bar_shows_where_it_is_and_the_live_numbers(tiny):
    text = drawn(tiny, force_terminal=True, color_system=None)
    last = next(line for line in reversed(text.replace("\r", "\n").splitlines()) if "/4" in line)
    assert "gmm25" in last and "4/4" in last and "ELBO -" in last and "EUBO " in last and "ESS " in last
    assert len(last) <= 100 and "…" not in last


def test_one_bar_shows_the_mean_of_several_runs(tiny):
    out = io.StringIO()
    loggers = [MetricsLogger(), MetricsLogger(), MetricsLogger()]
    for logger, elbo in zip(loggers, (-3.0, -1.0, None), strict=True):
        logger.rows = [dict.fromkeys(MetricsLogger.COLUMNS) | {"elbo": elbo}]
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    train(tiny(iterations=4), ProgressBar(loggers, console))
    last = next(line for line in reversed(out.getvalue().replace("\r", "\n").splitlines()) if "/4" in line)
    assert "gmm25 × 3" in last and "ELBO -2.00" in last and "EUBO" not in last


def test_the_bar_is_silent_where_nobody_looks(tiny):
    assert drawn(tiny) == ""


def test_checkpoints_are_saved_when_due_and_at_the_end(tiny, tmp_path, monkeypatch):
    saved = []
    real = CheckpointSaver._save

    def save(self, trainer):
        saved.append(trainer.iteration)
        real(self, trainer)

    monkeypatch.setattr(CheckpointSaver, "_save", save)
    config = tiny(iterations=8, checkpoint_every=3)
    train(config, CheckpointSaver(tmp_path))
    assert saved == [3, 6, 8]
    state, settings = load_checkpoint(tmp_path)
    assert state["counters"]["iteration"] == 8
    assert type(config).from_dict(settings) == config
    saved.clear()
    train(tiny(iterations=6, checkpoint_every=3), CheckpointSaver(tmp_path))
    assert saved == [3, 6]  # not twice at the end
