"""What looks on while the trainer works: NaN guard, live numbers and metrics.csv, progress bar, checkpoints, Ctrl-C.

Callbacks change nothing that the training sees: live numbers are computed on a random stream of their own.
"""

import csv
import io
import signal
from collections.abc import Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..agents.origin import Origin
from ..envs.errors import InputError
from .checkpoint import save_checkpoint, write_atomically
from .evaluation import contexts_of_evaluation, live_log_weights, live_numbers, numbers_of_log_weights
from .fetching import Fetched

if TYPE_CHECKING:
    from tensordict import TensorDict
    from torch import Tensor

    from .trainer import Trainer

__all__ = ["Callback", "CheckpointSaver", "InterruptHandler", "MetricsLogger", "NaNGuard", "ProgressBar"]


class Callback:
    """Hooks around the training loop; override those you need.

    Example:
        >>> class Count(Callback):
        ...     seen = 0
        ...     def on_iteration(self, trainer, losses):
        ...         self.seen += 1
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first iteration of a `train` call."""

    def on_iteration(self, trainer: "Trainer", losses: "TensorDict") -> None:
        """After every iteration, with its (detached) losses."""

    def on_end(self, trainer: "Trainer") -> None:
        """After the last iteration, also of an interrupted run."""


class NaNGuard(Callback):
    """Ends a run whose updates had to be left out, because a loss or gradient was not finite, many times in a row.

    It looks after the iterations in which the trainer does (`Trainer.look_every`).

    Args:
        patience: how many left out updates in a row are put up with.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience

    def on_iteration(self, trainer: "Trainer", losses: "TensorDict") -> None:
        """Raise InputError after too many left out updates."""
        if not trainer.looks:
            return
        row = int(trainer.optimisers.skipped_in_a_row)
        if row >= self.patience:
            raise InputError(
                f"training: the loss or its gradient was not finite for {row} iterations in a row (iteration "
                f"{trainer.iteration}); try a smaller generation_optimiser.rate, or check the scale of the target"
            )


class MetricsLogger(Callback):
    """Computes live numbers every `log_every` iterations, keeps them in `rows`, and appends them to a CSV file.

    Columns: iteration, the losses of that iteration (nats², nats for likelihoods), log_z (of the objective), elbo, eubo
    (blank without exact samples), ess (share), bits_per_dimension (held-out samples) and train_bits_per_dimension, both
    of data alone, which have none of elbo, eubo and ess, skipped, energy_calls, gradient_calls, search_acceptance (of
    the last local search; blank before it), search_share (share of the memory that came from local search), seconds.

    On a device other than the CPU (`Trainer.look_every` > 1) the numbers are fetched while the next iteration is under
    way, and the row is there after it; that of the last iteration at the end.

    Args:
        path: the CSV file, or None to keep the rows in memory only.
        samples: trajectories of each kind per row.
    """

    COLUMNS = (
        "iteration",
        "loss_generation",
        "loss_destruction",
        "loss_log_z",
        "loss_flow",
        "log_z",
        "elbo",
        "eubo",
        "ess",
        "bits_per_dimension",
        "train_bits_per_dimension",
        "skipped",
        "energy_calls",
        "gradient_calls",
        "search_acceptance",
        "search_share",
        "seconds",
    )

    def __init__(self, path: Path | None = None, samples: int = 512) -> None:
        self.path = path
        self.samples = samples
        self.rows: list[dict[str, Any]] = []
        self._begun: tuple[dict[str, Any], Fetched] | None = None

    def on_start(self, trainer: "Trainer") -> None:
        """Keep the rows up to the trainer's iteration: what a resumed run does again is written again."""
        self._begun = None
        if self.path is not None:
            self.rows = [row for row in read_metrics(self.path) if row["iteration"] <= trainer.iteration]
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, self.COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(self.path, text.getvalue().encode())

    def on_iteration(self, trainer: "Trainer", losses: "TensorDict") -> None:
        """Compute a row when one is due; write it as soon as its numbers are there."""
        self._finish(trainer)
        if trainer.iteration % trainer.config.log_every == 0:
            self._begin(trainer, losses)
            if trainer.look_every == 1:
                self._finish(trainer)

    def on_end(self, trainer: "Trainer") -> None:
        """Write the last row."""
        self._finish(trainer)

    def _begin(self, trainer: "Trainer", losses: "TensorDict") -> None:
        """Ask for the numbers of a row."""
        search = trainer.local_search
        row: dict[str, float | None] = {
            "iteration": trainer.iteration,
            "energy_calls": trainer.energy_calls,
            "gradient_calls": trainer.gradient_calls,
            "seconds": round(trainer.seconds, 3),
        }
        agent, target, seed = trainer.evaluated_agent, trainer.target, trainer.iteration
        numbers: dict[str, Tensor] = {name: losses[name] for name in self.COLUMNS if name.startswith("loss_")}
        numbers["log_z"] = self._log_z(trainer)
        numbers["skipped"] = trainer.optimisers.skipped
        if search is not None:
            numbers["search_acceptance"] = search.acceptance.to(trainer.device, non_blocking=True)
        numbers["search_share"] = trainer.replay.share_on_device(Origin.LOCAL_SEARCH)
        if target.has_log_prob and not target.is_conditional:
            with target.checks.deferring(trainer.look_every > 1):
                numbers |= live_log_weights(agent, target, self.samples, seed=seed)
        else:
            row |= live_numbers(agent, target, self.samples, seed=seed)
        self._begun = row, Fetched(numbers)

    def _finish(self, trainer: "Trainer") -> None:
        """Write the row whose numbers were asked for, if any."""
        if self._begun is None:
            return
        (row, fetched), self._begun = self._begun, None
        numbers = fetched.read()
        weights = {name: numbers.pop(name) for name in ("generated", "destroyed") if name in numbers}
        if weights:
            try:
                row |= numbers_of_log_weights(**weights)
            except InputError:
                trainer.look()  # what the density has to say is said first
                raise
        row |= {name: float(value) for name, value in numbers.items()} | {"skipped": int(numbers["skipped"])}
        if isnan(row.get("search_acceptance", 0.0)):
            row["search_acceptance"] = None  # before the first search
        self.rows.append({name: row.get(name) for name in self.COLUMNS})
        if self.path is not None:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.COLUMNS).writerow(self.rows[-1])

    def _log_z(self, trainer: "Trainer") -> "Tensor":
        """The objective's log Z; its mean over the evaluation's contexts for a conditional target."""
        contexts = contexts_of_evaluation(trainer.agent, trainer.target, trainer.config.evaluation_contexts)
        return trainer.agent.log_z_given(contexts).detach().mean()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.csv; a row cut short (a kill in the middle of a write) and what follows it are left out."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    whole = ("iteration", "skipped", "energy_calls", "gradient_calls")
    with path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(TypeError, ValueError, csv.Error):
        for raw in csv.DictReader(file):
            row = {k: int(v) if k in whole else None if v == "" else float(v) for k, v in raw.items()}
            if not {"iteration", "seconds"} <= row.keys() <= set(MetricsLogger.COLUMNS):
                break
            rows.append(dict.fromkeys(MetricsLogger.COLUMNS) | row)  # those of an earlier version have fewer columns
    return rows


class ProgressBar(Callback):
    """A progress bar with the live ELBO, EUBO and ESS of the latest metrics row, of data the bits per dimension.

    It is silent outside a terminal or notebook.

    Args:
        metrics: the logger whose rows are shown; of runs in common all of theirs, whose mean is shown.
        console: where to draw; standard error by default.
    """

    SHOWN: ClassVar[dict[str, str]] = {
        "elbo": "ELBO",
        "eubo": "EUBO",
        "ess": "ESS",
        "bits_per_dimension": "bits/dim",
        "train_bits_per_dimension": "trained on",
    }

    def __init__(self, metrics: MetricsLogger | Sequence[MetricsLogger], console: Console | None = None) -> None:
        self.metrics = [metrics] if isinstance(metrics, MetricsLogger) else list(metrics)
        console = console or Console(stderr=True)
        self.shown = console.is_interactive or console.is_jupyter
        self._shown_rows: list[int | None] = []
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )

    def on_start(self, trainer: "Trainer") -> None:
        """Draw the bar."""
        name = trainer.target.name if len(self.metrics) == 1 else f"{trainer.target.name} × {len(self.metrics)}"
        self.task = self.progress.add_task(
            name, total=trainer.config.iterations, completed=trainer.iteration, numbers=""
        )
        if self.shown:
            self.progress.start()

    def on_iteration(self, trainer: "Trainer", losses: "TensorDict") -> None:
        """Move the bar, and show the latest numbers."""
        rows = [metrics.rows[-1] for metrics in self.metrics if metrics.rows]
        if rows and (of := [row["iteration"] for row in rows]) != self._shown_rows:
            self._shown_rows = of
            known = {name: [row[name] for row in rows if row[name] is not None] for name in self.SHOWN}
            parts = [f"{self.SHOWN[name]} {fmean(values):.2f}" for name, values in known.items() if values]
            self.progress.update(self.task, numbers="  ".join(parts))
        self.progress.update(self.task, completed=trainer.iteration)

    def on_end(self, trainer: "Trainer") -> None:
        """Leave the bar as it is."""
        self.stop()

    def stop(self) -> None:
        """Take the terminal back, also after an error, so that the message stands alone."""
        if self.shown:
            self.progress.stop()


class CheckpointSaver(Callback):
    """Saves the trainer every `checkpoint_every` iterations and at the end, also of an interrupted run.

    Of several ranks all have one, and the first writes.

    Args:
        folder: the run's `checkpoint/` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved = -1

    def on_iteration(self, trainer: "Trainer", losses: "TensorDict") -> None:
        """Save when one is due."""
        if trainer.iteration % trainer.config.checkpoint_every == 0:
            self._save(trainer)

    def on_end(self, trainer: "Trainer") -> None:
        """Save the last state."""
        if self.saved != trainer.iteration:
            self._save(trainer)

    def _save(self, trainer: "Trainer") -> None:
        state = trainer.state_dict()
        if trainer.ranks.main:
            save_checkpoint(self.folder, state, trainer.config.to_dict())
        self.saved = trainer.iteration


class InterruptHandler(Callback):
    """Ctrl-C (or SIGTERM) ends training after the iteration under way; a second one ends it at once.

    Attributes:
        interrupted: whether a signal came.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.interrupted = False
        self._trainer: Trainer | None = None
        self._before: dict[int, Any] = {}

    def on_start(self, trainer: "Trainer") -> None:
        """Take over the signals."""
        self._trainer = trainer
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def on_end(self, trainer: "Trainer") -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if self._trainer is not None:
            self._trainer.stop_requested = True
