"""Run folders of many runs at once: `ebbflow train TARGET --runs 16`, and how they go on.

The runs have consecutive seeds and the folders OUT/seed-0, OUT/seed-1, …, each of which `ebbflow resume`, `evaluate`,
`sample` and `report` take as they take any other; `ebbflow resume OUT` goes on with all of them together.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..envs.errors import InputError, whole_number
from .callbacks import Callback, CheckpointSaver, InterruptHandler, MetricsLogger, NaNGuard, ProgressBar
from .config import TrainConfig
from .many_runs import ManyRuns
from .ranks import Ranks
from .run_folder import RunFolder
from .train import judge, target_of

__all__ = ["folders_of_many", "resume_many", "train_many"]


def train_many(
    config: TrainConfig, runs: int, out: Path, *, overwrite: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Train runs with the seeds `config.seed`, `config.seed` + 1, … together, each into a run folder of its own.

    Args:
        config: all settings but the seed.
        runs: how many, >= 1.
        out: the folder of the run folders.
        overwrite: replace earlier runs there.
        console: where the progress bar goes; standard error by default.

    Returns:
        `{"folders": [...], "evaluations": [...]}`; `{"interrupted": iteration}` where they were interrupted.

    Raises:
        InputError: as `ManyRuns` and `train`, whose promises about earlier and failed runs hold here, too.
    """
    if Ranks.joined().size > 1:
        raise InputError(f"runs: expected 1 in a training over several processes, got {runs}")
    whole_number("runs", runs, least=1)
    if RunFolder(out).holds_run:
        raise InputError(f"out: expected a folder for {runs} run folders, got the run {out}")
    configs = [replace(config, seed=config.seed + k) for k in range(runs)]
    folders = [RunFolder(out / f"seed-{one.seed}") for one in configs]
    named = {folder.path for folder in folders}
    others = [str(folder.path) for folder in folders_of_many(out) if folder.path not in named]
    if others:  # which `resume_many` would take for runs of this command
        raise InputError(f"out: expected a folder without runs of other seeds, got {out}, which holds {others[0]}")

    def check_free() -> None:
        if out.is_file():
            raise InputError(f"out: expected a folder, got the file {out}")
        for folder in folders:
            folder.check_free(overwrite=overwrite)

    check_free()
    console = console or Console(stderr=True)
    with console.status(f"{config.target} × {runs}: preparing"):
        many = ManyRuns(target_of(config), configs)
        many.prepare()
    check_free()
    try:
        for folder, trainer in zip(folders, many.trainers, strict=True):
            folder.create(trainer.config)  # with what the trainer has chosen itself
        return _train(many, folders, console)
    except BaseException:
        for folder in folders:
            if not folder.has_checkpoint:
                folder.remove()
        raise


def folders_of_many(path: Path) -> list[RunFolder]:
    """The run folders that `train_many` made in this folder, by seed; none of a run folder, or any other."""
    if RunFolder(path).config.exists() or not path.is_dir():
        return []
    found = [RunFolder(folder) for folder in path.glob("seed-*")]
    return sorted((run for run in found if run.holds_run), key=lambda run: run.load_config().seed)


def resume_many(path: Path, *, console: Console | None = None) -> dict[str, Any]:
    """Go on with the runs of `train_many` from their last checkpoints, together.

    Raises:
        InputError: where the runs are not after the same iteration, or one cannot be read; each can still go on alone.
    """
    folders = folders_of_many(path)
    loaded = [folder.load_state() for folder in folders]
    done = {state["counters"]["iteration"] for state, _ in loaded}
    if len(done) > 1:
        raise InputError(
            f"run: the runs in {path} are after different iterations, {sorted(done)}, and cannot go on together; go on "
            f"with each: {'; '.join(f'ebbflow resume {folder.path}' for folder in folders)}"
        )
    many = ManyRuns(target_of(loaded[0][1]), [config for _, config in loaded], states=[state for state, _ in loaded])
    return _train(many, folders, console or Console(stderr=True))


def _train(many: ManyRuns, folders: Sequence[RunFolder], console: Console) -> dict[str, Any]:
    loggers = [MetricsLogger(folder.metrics) for folder in folders]
    bar, interrupt = ProgressBar(loggers, console), InterruptHandler()
    for trainer, folder, metrics in zip(many.trainers, folders, loggers, strict=True):
        shown: list[Callback] = [bar] if trainer is many.trainers[-1] else []
        trainer.callbacks = [NaNGuard(), metrics, *shown, CheckpointSaver(folder.checkpoint)]
    last = many.trainers[-1]
    last.callbacks.append(interrupt)  # after all that is saved
    try:
        many.train()
    finally:
        bar.on_end(last)
        interrupt.on_end(last)
    if many.iteration < last.config.iterations:
        return {"interrupted": many.iteration}
    evaluations = []
    try:
        for trainer, folder, metrics in zip(many.trainers, folders, loggers, strict=True):
            with console.status(f"{trainer.target.name}: evaluating seed {trainer.config.seed}"):
                evaluations.append(judge(trainer, folder, metrics))
    except KeyboardInterrupt:
        return {"interrupted": many.iteration}
    return {"folders": [folder.path for folder in folders], "evaluations": evaluations}
