"""The trainer script: set up a run, train, evaluate, draw. `python -m ebbflow.trainers.train TARGET ...`.

From start to end: target → trainer → run folder → training loop → evaluation.json → figures. Under `torchrun` all
processes train together (`Ranks`), and the first alone writes, evaluates and draws.
"""

import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ..envs.errors import InputError
from ..envs.registry import get_target
from ..envs.target import Target
from .callbacks import CheckpointSaver, InterruptHandler, MetricsLogger, NaNGuard, ProgressBar
from .config import TrainConfig
from .evaluation import evaluate, write_evaluation
from .figures.gallery import write_figures
from .ranks import ALONE, Ranks
from .run_folder import RunFolder
from .trainer import Trainer

__all__ = ["evaluate_run", "judge", "load_run", "resume", "target_of", "train"]


def train(config: TrainConfig, out: Path, *, overwrite: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train a sampler into a new run folder, and judge it.

    Args:
        config: all settings; `config.target` says what to sample.
        out: the run folder.
        overwrite: replace an earlier run there.
        console: where the progress bar goes; standard error by default.

    Returns:
        The evaluation, as in evaluation.json; `{"interrupted": iteration}` for a run that was interrupted; nothing in a
        process of several that is not the first.

    Raises:
        InputError: for anything the user gave that cannot be used. A run that fails before its first checkpoint leaves
            nothing behind; a later failure keeps the last checkpoint. An earlier run is replaced when the loop begins,
            so that settings or a density that cannot be used do not cost it.
    """
    run = RunFolder(out)
    ranks = Ranks.joined()
    ranks.from_main(lambda: run.check_free(overwrite=overwrite))
    console = console or Console(stderr=True, quiet=not ranks.main)
    trainer = Trainer(target_of(config), config, ranks=ranks)
    with console.status(f"{trainer.target.name}: preparing"):
        trainer.prepare()
    ranks.from_main(lambda: run.check_free(overwrite=overwrite))
    try:
        ranks.from_main(lambda: run.create(trainer.config))  # with what the trainer has chosen itself
        return _train(trainer, run, console)
    except BaseException:
        if ranks.main and not run.has_checkpoint:
            run.remove()
        raise


def resume(path: Path, *, console: Console | None = None) -> dict[str, Any]:
    """Go on with an interrupted run from its last checkpoint, to the same end, bit for bit on the CPU.

    With another number of processes it is the same run, but no more bit for bit.

    Raises:
        InputError: as `load_run`, and what training raises.
    """
    ranks = Ranks.joined()
    trainer = load_run(path, ranks)
    return _train(trainer, RunFolder(path), console or Console(stderr=True, quiet=not ranks.main))


def load_run(path: Path, ranks: Ranks = ALONE) -> Trainer:
    """The trainer of a run, as its last checkpoint left it; of several processes the first reads it for all.

    Raises:
        InputError: when there is no run, or its checkpoint is missing, broken or of another configuration.
    """
    state, config = ranks.from_main(lambda: RunFolder(path).load_state())
    trainer = Trainer(target_of(config), config, ranks=ranks)
    trainer.load_state_dict(state)
    return trainer


def evaluate_run(trainer: Trainer, *, samples: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Evaluation of a trainer's averaged agent, with what the training has cost so far."""
    anchors = trainer.anchors
    return evaluate(
        trainer.evaluated_agent,
        trainer.target,
        samples=samples or trainer.config.evaluation_samples,
        contexts=trainer.config.evaluation_contexts,
        seed=seed,
        anchor_log_z=None if anchors is None else _known(anchors.log_z),
        anchor_log_z_stderr=None if anchors is None else _known(anchors.log_z_stderr),
        energy_calls=trainer.energy_calls,
        gradient_calls=trainer.gradient_calls,
        seconds=trainer.seconds,
    )


def _train(trainer: Trainer, run: RunFolder, console: Console) -> dict[str, Any]:
    metrics = MetricsLogger(run.metrics)
    bar = ProgressBar(metrics, console)
    interrupt = InterruptHandler()
    shown = [metrics, bar] if trainer.ranks.main else []
    trainer.callbacks = [NaNGuard(), *shown, CheckpointSaver(run.checkpoint), interrupt]
    try:
        trainer.train()
    finally:
        bar.on_end(trainer)
        interrupt.on_end(trainer)
    if not trainer.ranks.main:
        return {}
    if trainer.iteration < trainer.config.iterations:
        return {"interrupted": trainer.iteration}
    try:
        with console.status(f"{trainer.target.name}: evaluating"):
            return judge(trainer, run, metrics)
    except KeyboardInterrupt:
        return {"interrupted": trainer.iteration}


def judge(trainer: Trainer, run: RunFolder, metrics: MetricsLogger) -> dict[str, Any]:
    """Evaluate a trained run; write its evaluation.json and its figures."""
    evaluation = evaluate_run(trainer)
    write_evaluation(run.evaluation, evaluation)
    write_figures(run.figures, trainer.evaluated_agent, trainer.target, metrics.rows)
    return evaluation


def _known(value: float) -> float | None:
    """The number, or None for NaN: anchors given by the user come without an estimate."""
    return None if math.isnan(value) else value


def target_of(config: TrainConfig) -> Target:
    """What the settings say is to be sampled."""
    if not config.target:
        raise InputError("target: expected a name, plugin or package.module:attribute; see: ebbflow targets")
    return get_target(config.target, dim=config.dim, scale=config.scale)


if __name__ == "__main__":
    from .cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
