"""The command line `ebbflow`; torch is imported when work begins.

Mistakes in what the user gave end in one line on standard error and exit code 2 (with `--debug`: the traceback); an
interrupted training ends in exit code 130 after saving.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..envs.errors import InputError
from .config import SEEDS, MatmulPrecision, TrainConfig, describe_presets, list_presets, load_preset

__all__ = ["main"]


_Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # turned on only; settings go either way, --x and --no-x


@dataclass(frozen=True)
class _Command:
    debug: _Switch = False
    """Show the whole traceback of an error."""

    def run(self) -> int:
        """Do it; returns the exit code."""
        raise NotImplementedError


@dataclass(frozen=True)
class Train(_Command):
    """Train a sampler into a new run folder, evaluate it, and draw its figures."""

    target: tyro.conf.Positional[str | None] = None
    """What to sample or to learn from: a name (see `ebbflow targets`), a plugin, package.module:attribute, or a file of
    data. The name of a preset stands for its target and its settings."""
    out: Path | None = None
    """Run folder; by default runs/TARGET."""
    preset: Annotated[str | None, tyro.conf.arg(help_behavior_hint=f"(one of {describe_presets()})")] = None
    """Start from the settings of a preset, or of any run's config.json; flags override them."""
    overwrite: _Switch = False
    """Replace an earlier run in the same folder."""
    runs: int | None = None
    """Train so many runs together, with consecutive seeds, into OUT/seed-0, OUT/seed-1 ...: each is the run alone, and
    small ones together cost far less than one after the other. See docs/scaling-out.md."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Settings."""

    def run(self) -> int:
        """Train, evaluate, draw."""
        from .train import train

        given = self.target or self.config.target
        if given in list_presets() and self.preset not in (None, given):
            raise InputError(f"preset: {given!r} is a preset itself; expected none beside it, got {self.preset!r}")
        config = self.config if given in list_presets() else replace(self.config, target=given)
        name = given.replace(":", "-").replace("/", "-")
        out = self.out or Path("runs") / (name or "run")
        if self.runs is not None:
            from .train_many import train_many

            return _report_many(train_many(config, self.runs, out, overwrite=self.overwrite), out)
        return _report(train(config, out, overwrite=self.overwrite), out)


@dataclass(frozen=True)
class Resume(_Command):
    """Go on with an interrupted run from its last checkpoint."""

    folder: tyro.conf.Positional[Path] = tyro.MISSING
    """Run folder, or a folder of `ebbflow train --runs`, whose runs go on together."""

    def run(self) -> int:
        """Train on, evaluate, draw."""
        from .train import resume
        from .train_many import folders_of_many, resume_many

        if folders_of_many(self.folder):
            return _report_many(resume_many(self.folder), self.folder)
        return _report(resume(self.folder), self.folder)


@dataclass(frozen=True)
class Evaluate(_Command):
    """Evaluate a run's last checkpoint again, and write its evaluation.json."""

    folder: tyro.conf.Positional[Path] = tyro.MISSING
    """Run folder."""
    as_json: Annotated[_Switch, tyro.conf.arg(name="json")] = False
    """Print the numbers as JSON, and nothing else, on standard output."""
    samples: int | None = None
    """Samples of each kind; by default the run's setting."""
    seed: int = 0
    """Seed of the evaluation."""

    def run(self) -> int:
        """Evaluate."""
        from .evaluation import as_json, write_evaluation
        from .run_folder import RunFolder
        from .train import evaluate_run, load_run

        if self.samples is not None and self.samples < 2:
            raise InputError(f"samples: expected a whole number >= 2, got {self.samples!r}")
        evaluation = evaluate_run(load_run(self.folder), samples=self.samples, seed=self.seed)
        write_evaluation(RunFolder(self.folder).evaluation, evaluation)
        if self.as_json:
            print(as_json(evaluation))
            return 0
        return _report(evaluation, self.folder)


@dataclass(frozen=True)
class Sample(_Command):
    """Draw samples, of a density with their log importance weights, from a run's last checkpoint."""

    folder: tyro.conf.Positional[Path] = tyro.MISSING
    """Run folder."""
    number: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1000
    """How many; of each context, where there are several."""
    context: str | None = None
    """Of a conditional target: the context as numbers with commas between them, or a .npy file of one [c] or several
    [m, c]."""
    out: Path = Path("samples.npz")
    """File to write: .npz (arrays x, log_weight, of a conditional target context) or .nc (ArviZ InferenceData)."""
    seed: int = 0
    """Seed of the sampling."""

    def run(self) -> int:
        """Sample."""
        from .export import check_ending, write_samples

        check_ending(self.out)
        if self.number < 1:
            raise InputError(f"number: expected a whole number >= 1, got {self.number!r}")
        if not 0 <= self.seed < SEEDS:
            raise InputError(f"seed: expected a whole number from 0 to below 2^63, got {self.seed!r}")
        import torch

        from .contexts_given import read_contexts
        from .evaluation import sample_agent
        from .run_folder import RunFolder
        from .train import load_run

        trainer = load_run(self.folder)
        agent, target = trainer.evaluated_agent, trainer.target
        contexts = read_contexts(self.context, target)
        torch.manual_seed(self.seed)
        if contexts is None:
            parts = [sample_agent(agent, target, self.number)]
        else:
            contexts = contexts.to(trainer.device, trainer.dtype)
            parts = [sample_agent(agent.given(c), target.given(c), self.number) for c in contexts]
            contexts = contexts.repeat_interleave(self.number, dim=0)
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        x, log_weight = columns["x"], columns.get("log_weight")
        write_samples(self.out, x, log_weight, RunFolder(self.folder).load_evaluation(), contexts)
        print(f"{len(x)} samples of dimension {x.shape[1]} in {self.out}")
        return 0


@dataclass(frozen=True)
class Report(_Command):
    """Show a run's evaluation, and draw its figures again."""

    folder: tyro.conf.Positional[Path] = tyro.MISSING
    """Run folder."""

    def run(self) -> int:
        """Show and draw."""
        from .callbacks import read_metrics
        from .figures.gallery import write_figures
        from .run_folder import RunFolder
        from .train import evaluate_run, load_run

        run = RunFolder(self.folder)
        trainer = load_run(self.folder)
        evaluation = run.load_evaluation() or evaluate_run(trainer)
        write_figures(run.figures, trainer.evaluated_agent, trainer.target, read_metrics(run.metrics))
        return _report(evaluation, run.path)


@dataclass(frozen=True)
class Compare(_Command):
    """Tabulate finished runs: mean ± standard deviation over seeds, beside the settings that differ."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN ...")] = ("runs",)
    """Run folders, folders that hold some, or patterns such as 'runs/gmm25-*'."""
    csv: Path | None = None
    """Write the table as CSV, too."""
    markdown: Path | None = None
    """Write the table as Markdown, too."""
    figure: Path | None = None
    """Draw the bounds and their width (.png, .pdf or .svg)."""
    ignore: tuple[str, ...] = ()
    """Settings by dotted name that may differ between the runs of a row, as the seed does, such as
    agent.time_grid_power, which each run matches to the target by a search of its own."""
    as_json: Annotated[_Switch, tyro.conf.arg(name="json")] = False
    """Print the table as JSON, and nothing else, on standard output."""

    def run(self) -> int:
        """Compare."""
        from .comparison import find_runs, group_runs
        from .tabulation import as_csv, as_json, as_markdown, print_table

        if self.figure is not None and self.figure.suffix not in (".png", ".pdf", ".svg"):
            raise InputError(f"figure: expected a file name ending in .png, .pdf or .svg, got {str(self.figure)!r}")
        runs, remarks = find_runs(self.runs)
        groups = group_runs(runs, self.ignore)
        for remark in remarks:
            print(f"ebbflow: {remark}", file=sys.stderr)
        if self.csv is not None:
            self.csv.write_text(as_csv(groups), encoding="utf-8")
        if self.markdown is not None:
            self.markdown.write_text(f"{as_markdown(groups)}\n", encoding="utf-8")
        if self.figure is not None:
            from .figures.comparison import write_comparison

            write_comparison(self.figure, groups)
        if self.as_json:
            print(as_json(groups))
        else:
            from rich.console import Console

            print_table(groups, Console())
        return 0


@dataclass(frozen=True)
class Bench(_Command):
    """Measure iterations, samples and energies a second and peak memory, or compare two such results."""

    target: tyro.conf.Positional[str | None] = None
    """What to sample or to learn from, as for `ebbflow train`: a density, data, or a preset."""
    compare: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="A.json B.json")] = None
    """Instead of measuring: tabulate two saved results side by side, with the ratios B / A and what differs."""
    out: Path | None = None
    """Write the result as JSON, with every setting, the versions and the device."""
    as_json: Annotated[_Switch, tyro.conf.arg(name="json")] = False
    """Print the result or the comparison as JSON, and nothing else, on standard output."""
    dim: int | None = None
    """Dimension, where the target does not fix it."""
    scale: float | None = None
    """Typical length of the target, where the default does not suit."""
    steps: int | None = None
    """Number of generation steps T; by default the preset's, or what suits the target."""
    batch_size: int | None = None
    """Trajectories per iteration, samples drawn at a time, and states in one call of the density; by default the
    preset's, or 256."""
    width: int | None = None
    """Width of the backbone; by default the preset's, or 128."""
    variant: str = "adaptive"
    """What is learned: adaptive (both policies), generation (its variance too), or fixed (its mean alone)."""
    device: str = "cpu"
    """Device: cpu, cuda, cuda:1 ..."""
    threads: int | None = None
    """CPU threads of torch; by default the preset's, or torch's own choice."""
    compile: _Switch = False
    """Compile iterations, as `ebbflow train` does."""
    cuda_graphs: _Switch = False
    """Capture what is compiled as CUDA graphs."""
    chunk: int | None = None
    """Steps of a trajectory that pass through the networks at once in a loss."""
    matmul_precision: MatmulPrecision = "float32"
    """Precision of the matrix products of iterations."""
    seed: int = 0
    """Seed of all random numbers."""
    rounds: int = 5
    """Rounds; in each, everything is measured once. The median and the range are shown."""
    seconds: float = 0.5
    """About how long each measurement of a round takes."""
    warmup: int = 10
    """Training iterations before the first round."""

    def run(self) -> int:
        """Measure, or compare."""
        import json

        from rich.console import Console

        from .bench_results import compare_results, load_result, print_comparison, print_result

        if self.compare is not None:
            if self.target is not None or self.out is not None:
                raise InputError("compare: expected neither a target nor an out beside it, for nothing is measured")
            one, other = (load_result(path) for path in self.compare)
            if self.as_json:
                ratios, differing = compare_results(one, other)
                ratios_by_key = {name: ratio._asdict() for name, ratio in ratios.items()}
                print(json.dumps({"ratios": ratios_by_key, "differing": differing}, indent=2))
            else:
                print_comparison(one, other, (str(self.compare[0]), str(self.compare[1])), Console())
            return 0
        if self.out is not None and (self.out.suffix != ".json" or self.out.is_dir()):
            raise InputError(f"out: expected a file name ending in .json, got {str(self.out)!r}")
        from .bench import Effort, measure

        result = measure(
            self.target or "",
            dim=self.dim,
            scale=self.scale,
            steps=self.steps,
            batch_size=self.batch_size,
            width=self.width,
            variant=self.variant,
            device=self.device,
            threads=self.threads,
            compile=self.compile,
            cuda_graphs=self.cuda_graphs,
            chunk=self.chunk,
            matmul_precision=self.matmul_precision,
            seed=self.seed,
            effort=Effort(self.rounds, self.seconds, self.warmup),
        )
        if self.out is not None:
            from .checkpoint import write_atomically

            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out, (json.dumps(result, indent=2) + "\n").encode())
        if self.as_json:
            print(json.dumps(result, indent=2))
        else:
            print_result(result, Console())
        return 0


@dataclass(frozen=True)
class Targets(_Command):
    """List the targets that can be named."""

    def run(self) -> int:
        """List."""
        from rich.console import Console
        from rich.table import Table

        from ..envs.registry import list_families, list_targets

        table = Table("target", "what it is", box=None)
        for name, description in list_targets().items():
            table.add_row(name, description)
        console = Console()
        console.print(table)
        families = ", ".join(list_families())
        console.print(f"\nd coordinates, n modes or samples to learn from, l tokens: {families}.", highlight=False)
        console.print(
            "Of your own: package.module:attribute, or data: FILE.npy, FILE.csv, FILE.txt, a folder of images.",
            highlight=False,
        )
        return 0


COMMANDS: dict[str, type[_Command]] = {
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "sample": Sample,
    "report": Report,
    "compare": Compare,
    "bench": Bench,
    "targets": Targets,
}

ROWS = (  # of the table that ends a training: evaluation keys, label, unit
    (("elbo", "elbo_stderr"), "ELBO", "nats"),
    (("eubo", "eubo_stderr"), "EUBO", "nats"),
    (("eubo_median", None), "EUBO median", "nats"),
    (("sandwich_width", None), "EUBO − ELBO", "nats"),
    (("log_z", "log_z_stderr"), "log Z (importance-weighted)", "nats"),
    (("anchor_log_z", "anchor_log_z_stderr"), "log Z (of the anchors)", "nats"),
    (("true_log_z", None), "log Z (true)", "nats"),
    (("ess_reverse", None), "ESS, generated", "share"),
    (("ess_forward", None), "ESS, exact samples", "share"),
    (("khat", None), "Pareto k̂", ""),
    (("log_likelihood", "log_likelihood_stderr"), "log likelihood, held out (bound)", "nats"),
    (("bits_per_dimension", None), "bits per dimension, held out", "bits"),
    (("train_bits_per_dimension", None), "bits per dimension, trained on", "bits"),
    (("sinkhorn", None), "Sinkhorn", ""),
    (("mode_coverage", None), "modes covered", "share"),
    (("energy_calls", None), "energy calls", ""),
    (("gradient_calls", None), "gradient calls", ""),
    (("seconds", None), "training", "s"),
)


def _report(evaluation: dict[str, Any], folder: Path) -> int:
    """Print the numbers, the warnings and where the files are."""
    from rich.console import Console
    from rich.table import Table

    from .evaluation import warnings_of

    if not evaluation:
        return 0  # in a process of several that is not the first
    if "interrupted" in evaluation:
        print(
            f"interrupted after iteration {evaluation['interrupted']}, and saved; go on with: ebbflow resume {folder}",
            file=sys.stderr,
        )
        return 130
    console = Console()
    table = Table("", box=None, header_style="dim")
    table.add_column("value", justify="right")
    table.add_column("± s.e.", justify="right")
    table.add_column("unit")
    for (key, error), label, unit in ROWS:
        value = evaluation.get(key)
        if value is None:
            continue
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
        spread = "" if error is None or evaluation.get(error) is None else f"{evaluation[error]:.3f}"
        table.add_row(label, shown, spread, unit)
    console.print(table)
    for warning in warnings_of(evaluation):
        # One line each where a program reads it, wrapped at words where a person does.
        console.print(f"[yellow]not to be trusted:[/yellow] {warning}", soft_wrap=not console.is_terminal)
    console.print(f"run folder: {folder}", soft_wrap=True, markup=False)
    return 0


def _report_many(result: dict[str, Any], folder: Path) -> int:
    """Print a table over all runs, the warnings of each, and where the files are."""
    from rich.console import Console

    from .comparison import find_runs, group_runs
    from .evaluation import warnings_of
    from .tabulation import print_table

    if "interrupted" in result:
        return _report(result, folder)
    console = Console()
    runs, _ = find_runs(result["folders"])
    print_table(group_runs(runs, ignore=["agent.time_grid_power"]), console)
    for run in runs:
        for warning in warnings_of(run.evaluation):
            message = f"[yellow]not to be trusted:[/yellow] seed {run.settings['seed']}: {warning}"
            console.print(message, soft_wrap=not console.is_terminal)
    console.print(f"run folders: {folder}/seed-*", soft_wrap=True, markup=False)
    return 0


def _defaults(argv: Sequence[str]) -> dict[str, _Command]:
    """Commands with their default values; a preset named on the command line changes those of `train`."""
    defaults = {name: command() for name, command in COMMANDS.items()}
    if argv and argv[0] == "train":
        for before, word in pairwise(argv):  # as the target, and not as the value of a flag
            takes_value = before.startswith("--") and "=" not in before and before not in ("--overwrite", "--debug")
            if word in list_presets() and not takes_value:
                defaults["train"] = Train(config=load_preset(word))
        for i, word in enumerate(argv):
            name = word.partition("=")[2] if word.startswith("--preset=") else None
            if word == "--preset" and i + 1 < len(argv):
                name = argv[i + 1]
            if name is not None:
                defaults["train"] = Train(config=load_preset(name))
    return defaults


def _guarded(work: Callable[[], int], debug: bool) -> int:
    """Run `work`; mistakes of the user and of the machine become one line."""
    try:
        return work()
    except InputError as error:
        if debug:
            raise
        print(f"ebbflow: {' '.join(str(error).split())}", file=sys.stderr)  # what a density raises may have many lines
        return 2
    except OSError as error:
        if debug:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"ebbflow: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if debug or not _is_out_of_memory(error):
            raise
        print(
            "ebbflow: out of memory; try a smaller batch_size, agent.width, replay.capacity or anchors.count",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("ebbflow: stopped", file=sys.stderr)
        return 130


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so on a CPU by a plain RuntimeError."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `ebbflow` command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv

    def work() -> int:
        kind = tyro.extras.subcommand_type_from_defaults(
            _defaults(argv), descriptions={name: (command.__doc__ or "") for name, command in COMMANDS.items()}
        )
        command = tyro.cli(
            kind,
            prog="ebbflow",
            description="Learn to generate by learning to destroy: few-step samplers of unnormalised densities.",
            args=argv,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        return command.run()

    return _guarded(work, debug)


if __name__ == "__main__":
    sys.exit(main())
