"""Settings of a training run. The text under each field is its `--help`; nothing here imports torch.

A run's `config.json` holds every field, so it is also a preset: presets under `trainers/presets/` are such files.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from ..agents.config import AgentConfig
from ..envs.errors import InputError, whole_number

__all__ = [
    "AnchorConfig",
    "ExplorationConfig",
    "LocalSearchConfig",
    "OptimiserConfig",
    "ReplayConfig",
    "TrainConfig",
    "describe_presets",
    "list_presets",
    "load_preset",
]

Contents = Literal["terminal", "path"]
LocalSearchKind = Literal["none", "mala", "ebb_and_flow"]
Schedule = Literal["cosine", "constant", "exponential"]
Precision = Literal["float32", "float64"]
MatmulPrecision = Literal["float32", "tf32", "bfloat16"]
RewardPath = Literal["followed", "redrawn"]
ResidualKind = Literal["squared", "huber", "log_cosh"]
Sides = Literal["both", "generation", "destruction", "none"]
TrunkSides = Literal["both", "generation", "destruction"]

OPTIMISERS = ("generation_optimiser", "destruction_optimiser", "log_z_optimiser", "flow_optimiser")
OPEN_RATES = ("destruction_optimiser.rate", "destruction_optimiser.table_rate")  # may be left to the trainer
PRESETS = Path(__file__).parent / "presets"
SEEDS = 2**63  # what torch takes
STEPS = 5  # of a density or of numbers, where `steps` is left open


@dataclass(frozen=True)
class ExplorationConfig:
    """Wider and pushed steps of the generation policy while it collects, and a flatter target while it learns."""

    scale: float = 1.5
    """Initial factor on the standard deviation of every generation step, >= 1."""
    added: float = 0.0
    """Initial extra standard deviation, as a multiple of the reference step's."""
    drift: float = 0.0
    """Initial size of a bounded Langevin drift, in standard deviations of the step (0.5: Langevin dynamics, 0: none).
    Costs a gradient call a step of every new path."""
    inverse_temperature: float = 1.0
    """Initial inverse temperature of the target in the loss, rising geometrically to 1; 1 for no tempering."""
    until: float = 0.5
    """Fraction of training after which there is no exploration."""


@dataclass(frozen=True)
class ReplayConfig:
    """What is remembered of the agent's own samples, and how it is drawn again."""

    share: float = 0.5
    """Share of every batch that comes from memory (own samples and anchors) instead of from the policy; 0 for none."""
    capacity: int = 10_000
    """Remembered rows."""
    contents: Contents = "terminal"
    """Remember terminal states (destroyed again when drawn) or whole paths."""
    priority: str = "importance_weight"
    """Priority: uniform, loss, reward, rank or importance_weight."""
    uniform_mixture: float = 0.0
    """Share of uniform draws mixed into the priority."""
    beta: float = 0.0
    """Exponent of the importance correction of the loss, 0 (none) to 1 (full)."""


@dataclass(frozen=True)
class AnchorConfig:
    """Protected states found by annealed sequential Monte Carlo before training, or given by the user."""

    share: float | None = None
    """Share of the remembered rows of a batch that is drawn from the anchors; 0 for no anchors. By default 0.75, and of
    tokens 0 unless there are `samples`, for the search needs a gradient."""
    count: int = 5000
    """Number of particles."""
    temperatures: int = 60
    """Annealing steps."""
    moves: int = 2
    """Langevin moves at each temperature."""
    final_moves: int = 1600
    """Most Langevin moves at the target itself, after the last temperature, into places too narrow to be found earlier.
    They end where the population stays where it is, which most targets' does after 200."""
    compression: float | None = 0.07
    """Make every other Langevin move in compressed coordinates of this length (in units of the initial standard
    deviation), for densities whose scale varies by orders of magnitude, as a funnel's does. None: none of them."""
    initial_scale: float = 1.5
    """Standard deviation of the initial Gaussian, in units of the diffusion rate sigma."""
    contexts: int = 16
    """Of a conditional target: the number of contexts searched, drawn from its law; they share the particles."""
    samples: str | None = None
    """A .npy file of your own samples `[n, dim]` to use instead of the search, or: exact, for `count` exact samples of
    the target, where it has them."""


@dataclass(frozen=True)
class LocalSearchConfig:
    """Markov chain moves of remembered states, put back into the memory."""

    kind: LocalSearchKind = "none"
    """none, mala (Langevin moves), or ebb_and_flow (destroy some steps back and regenerate, by the policies)."""
    every: int = 100
    """Iterations between two searches."""
    states: int = 256
    """Remembered states drawn (by priority) and moved in a search; those that moved become new rows."""
    anchors: int = 0
    """Anchors moved in a search, in place: the same law, new states."""
    moves: int = 20
    """Moves of each state in a search."""
    steps_back: int = 2
    """Steps that an ebb-and-flow move destroys and regenerates, at most the number of steps."""
    target_acceptance: float = 0.574
    """Acceptance that the step size of Langevin moves is adapted to."""


@dataclass(frozen=True)
class OptimiserConfig:
    """One Adam optimiser: its rates, their schedule, and clipping."""

    rate: float | None = 3e-3
    """Learning rate. None, of the destruction policy alone: chosen by the trainer to suit the target."""
    table_rate: float | None = 3e-3
    """Learning rate of the per-step, per-coordinate tables; of log Z's optimiser: of its network of the context. None
    as for rate."""
    beta1: float = 0.9
    """Adam's first moment decay."""
    beta2: float = 0.99
    """Adam's second moment decay."""
    clip_norm: float = 1.0
    """Largest gradient norm of this optimiser's parameters."""
    warmup: int = 100
    """Iterations of linear warm-up."""
    schedule: Schedule = "cosine"
    """Decay of the learning rates: cosine (to zero over the run), constant, or exponential (by `decay`)."""
    decay: float = 0.9999
    """Factor of the exponential schedule per iteration, in (0, 1]."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run: target, horizon, and every choice the trainer makes."""

    target: tyro.conf.Suppress[str] = ""
    """Target: a name (see `ebbflow targets`), an installed plugin, or package.module:attribute."""
    dim: int | None = None
    """Dimension, where the target does not fix it."""
    scale: float | None = None
    """Typical length of the target, where the default does not suit."""
    steps: int | None = None
    """Number of generation steps T; by default 5, and of tokens what suits the reference (masking: one a token)."""
    iterations: int = 2000
    """Number of training iterations."""
    batch_size: int = 256
    """Trajectories per iteration."""
    contexts_per_batch: int = 32
    """Of a conditional target: contexts in a batch, with several trajectories of each. Half of batch_size at most."""
    paths_per_sample: int = 4
    """Of data, where destruction is learned: paths destroyed from each sample of a batch."""
    path_cost: str | None = None
    """Of data, where destruction is learned: package.module:attribute, a function of trajectories that says what each
    costs (nats), which destruction is trained to avoid."""
    seed: int = 0
    """Seed of all random numbers."""
    device: str = "cpu"
    """Device: cpu, cuda, cuda:1 ..."""
    dtype: Precision = "float32"
    """Floating point type."""
    matmul_precision: MatmulPrecision = "float32"
    """Precision of the matrix products of hidden vectors in training, which networks of a depth of two or more have:
    float32, tf32 (of NVIDIA GPUs; elsewhere float32) or bfloat16. All else, and whatever is evaluated, sampled or
    saved, is in dtype."""
    threads: int | None = None
    """CPU threads of torch; by default torch's own choice."""
    compile: bool = False
    """Compile the steps of rollouts and the networks' passes of the loss (torch.compile): iterations 1.3 to 1.7 times
    as fast, equal to rounding, after half a minute or a minute of compiling: for long trainings. Needs a C++ compiler,
    and an agent with Gaussian steps."""
    cuda_graphs: bool = False
    """Also capture what is compiled as CUDA graphs, which saves the time of launching kernels one by one: for small
    networks on a GPU. Needs compile; on a CPU nothing is captured."""
    chunk: int | None = None
    """Steps of a trajectory that pass through the networks at once in a loss, and again in its backward: memory that
    hardly grows with the number of steps, for half more time or, of small states, several times as much. None: all at
    once. Of agents with Gaussian steps."""
    objective: str | None = None
    """Objective of the generation policy; by default vargrad, and of data random_level for tokens and
    maximum_likelihood for numbers. Of any paths: vargrad, trajectory_balance, detailed_balance,
    sub_trajectory_balance; of paths of its own, unwidened: reverse_kl (through the path and the density's gradient),
    reverse_kl_log_derivative; of destroyed samples: maximum_likelihood, and random_level
    (of data: the same by one random level of each sample). See docs/objectives.md."""
    destruction_objective: str | None = None
    """Objective of the destruction policy; by default the same, and of data vargrad (among the paths of each sample).
    As above without maximum_likelihood, and tlm (likelihood of the generation policy's own paths)."""
    proposal: str | None = None
    """Of random_level on masked data: a reference whose masked states are drawn in place of agent.reference's own, each
    weighted by the ratio of the two probabilities, so that what is learned stays the same: mask_one_random,
    mask_last_or_random ... See docs/destructions.md."""
    subtb_lambda: float = 2.0
    """Weight of a part of a trajectory over one that is a step shorter, in sub_trajectory_balance; 0 is
    detailed_balance, inf trajectory_balance."""
    residual: ResidualKind = "huber"
    """How residuals of the balance objectives and of vargrad count: squared, or squared when small and linearly when
    large (huber: at once, log_cosh: smoothly)."""
    residual_bound: float | None = 10.0
    """Residuals beyond this many nats count linearly (huber, log_cosh) while policies are coarse:
    the bound grows as 1/sqrt(share of training left). None: all squared."""
    trunk: TrunkSides = "both"
    """Whose loss trains a shared backbone: both, generation or destruction; its optimiser is always generation's."""
    target_networks: Sides = "both"
    """Whose loss sees the other policy through a target network: both, generation, destruction or none."""
    target_rate: float = 0.05
    """Rate at which the target networks follow. 0: no target networks."""
    average_decay: float = 0.99
    """Decay of the exponential average of the weights that is evaluated and sampled from; 0: the last weights."""
    log_reward_floor: float = -1e6
    """Log densities below this (or -inf, outside the support) count as this in training; evaluation never uses it."""
    agent: AgentConfig = field(default_factory=lambda: AgentConfig(time_grid_power=None))
    """Architecture and policies; here the time grid is matched to the target, by its gradient, unless a power is
    given."""
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    """Exploration."""
    reward_path: RewardPath = "followed"
    """Of reverse_kl_log_derivative: which path of a sample its reward is credited to. followed: the one that generation
    took; redrawn: another one, drawn by destroying the sample again, which is off-policy. See docs/reward.md."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Replay."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """Anchors."""
    local_search: LocalSearchConfig = field(default_factory=LocalSearchConfig)
    """Local search."""
    generation_optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Optimiser of the generation policy and of the shared backbone."""
    destruction_optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(rate=None, table_rate=None))
    """Optimiser of the destruction policy. By default its rates are 3e-3, and for the Gaussian destruction of data a
    tenth of generation's. Joint training is sensitive to the ratio of its rate (and table_rate) to
    those of the generation optimiser: 3e-4 is a tenth of the defaults."""
    single_optimiser: bool = False
    """Train both policies by generation_optimiser, whose rates and (joint) clipping then hold for destruction too."""
    log_z_optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(rate=1e-1))
    """Optimiser of log Z."""
    flow_optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(rate=1e-2))
    """Optimiser of the state flow, which only detailed_balance and sub_trajectory_balance have."""
    log_every: int = 50
    """Iterations between two rows of metrics.csv (and updates of the live numbers)."""
    checkpoint_every: int = 500
    """Iterations between two checkpoints."""
    evaluation_samples: int = 10_000
    """Samples of each kind in the final evaluation."""
    evaluation_contexts: int = 16
    """Of a conditional target: contexts that it is evaluated at, drawn from its law with a fixed seed; they share the
    samples."""

    def __post_init__(self) -> None:
        at_least = {
            "steps": 1,
            "iterations": 1,
            "batch_size": 2,
            "seed": 0,
            "log_every": 1,
            "checkpoint_every": 1,
            "evaluation_samples": 2,
            "contexts_per_batch": 1,
            "paths_per_sample": 1,
            "evaluation_contexts": 1,
            "anchors.contexts": 1,
            "replay.capacity": 1,
            "anchors.count": 2,
            "anchors.temperatures": 1,
            "anchors.moves": 1,
            "anchors.final_moves": 0,
            "local_search.every": 1,
            "local_search.states": 0,
            "local_search.anchors": 0,
            "local_search.moves": 1,
            "local_search.steps_back": 1,
            **{f"{name}.warmup": 0 for name in OPTIMISERS},
        }
        for name, least in at_least.items():
            value = self.lookup(name)
            if value is not None or name != "steps":
                whole_number(name, value, least=least)
        choices: dict[str, Any] = {
            "dtype": Precision,
            "matmul_precision": MatmulPrecision,
            "replay.contents": Contents,
            "local_search.kind": LocalSearchKind,
            "reward_path": RewardPath,
            "residual": ResidualKind,
            "trunk": TrunkSides,
            "target_networks": Sides,
        }
        choices |= {f"{name}.schedule": Schedule for name in OPTIMISERS}
        for name, choice in choices.items():
            if self.lookup(name) not in typing.get_args(choice):
                raise InputError(f"{name}: expected one of {list(typing.get_args(choice))}, got {self.lookup(name)!r}")
        if self.matmul_precision != "float32" and self.dtype != "float32":
            raise InputError(
                f"matmul_precision: expected float32 with dtype {self.dtype}, whose products are not to be rounded, "
                f"got {self.matmul_precision!r}"
            )
        if self.cuda_graphs and not self.compile:
            raise InputError(
                "cuda_graphs: expected False without compile, for they are made of what is compiled, got True"
            )
        if self.seed >= SEEDS:
            raise InputError(f"seed: expected a whole number below 2^63, got {self.seed!r}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads: expected a whole number >= 1, got {self.threads!r}")
        if self.chunk is not None:
            whole_number("chunk", self.chunk, least=1)
        if self.scale is not None and not 0.0 < self.scale < float("inf"):
            raise InputError(f"scale: expected a positive finite number, got {self.scale!r}")
        positive = [f"{name}.{what}" for name in OPTIMISERS for what in ("rate", "table_rate", "clip_norm")]
        if self.anchors.compression is not None:
            positive.append("anchors.compression")
        for name in (*positive, "anchors.initial_scale"):
            value = self.lookup(name)
            if value is None and name in OPEN_RATES:
                continue
            if value is None or not value > 0 or (value == float("inf") and not name.endswith("clip_norm")):
                raise InputError(f"{name}: expected a finite number > 0, got {value!r}")
        for name in (f"{name}.decay" for name in OPTIMISERS):
            value = self.lookup(name)
            if not 0.0 < value <= 1.0:
                raise InputError(f"{name}: expected a number > 0 and <= 1, got {value!r}")
        if self.residual_bound is not None and not self.residual_bound > 0:
            raise InputError(f"residual_bound: expected a number > 0 (nats), got {self.residual_bound!r}")
        if not self.subtb_lambda >= 0.0:
            raise InputError(f"subtb_lambda: expected a number >= 0, got {self.subtb_lambda!r}")
        for name in ("target_rate", "replay.share", "anchors.share", "replay.uniform_mixture", "replay.beta"):
            value = self.lookup(name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise InputError(f"{name}: expected a number between 0 and 1, got {value!r}")
        for name in ("average_decay", *(f"{name}.{beta}" for name in OPTIMISERS for beta in ("beta1", "beta2"))):
            value = self.lookup(name)
            if not 0.0 <= value < 1.0:
                raise InputError(f"{name}: expected a number from 0 to below 1, got {value!r}")
        search = self.local_search
        if not 0.0 < search.target_acceptance < 1.0:
            raise InputError(
                f"local_search.target_acceptance: expected a number between 0 and 1, got {search.target_acceptance!r}"
            )
        if search.kind != "none" and self.replay.share == 0:
            raise InputError(f"local_search.kind: expected 'none' where replay.share is 0, got {search.kind!r}")
        if search.kind == "ebb_and_flow" and search.steps_back > (self.steps or STEPS):
            raise InputError(
                f"local_search.steps_back: expected at most steps = {self.steps or STEPS}, got {search.steps_back!r}"
            )
        if not -float("inf") < self.log_reward_floor < 0:
            raise InputError(f"log_reward_floor: expected a finite number < 0, got {self.log_reward_floor!r}")

    def lookup(self, name: str) -> Any:
        """A setting by its dotted name.

        Example:
            >>> TrainConfig().lookup("agent.width")
            128
        """
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return value

    def to_dict(self) -> dict[str, Any]:
        """All fields as nested plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "config") -> "TrainConfig":
        """Settings from nested plain values; fields left out keep their defaults.

        Raises:
            InputError: for an unknown field or a value of a wrong type, named with its `origin`.

        Example:
            >>> TrainConfig.from_dict({"steps": 3, "agent": {"width": 32}}).agent.width
            32
        """
        return _from_dict(cls, values, origin)


def _from_dict(cls: type, values: Any, origin: str, prefix: str = "") -> Any:
    if not isinstance(values, dict):
        raise InputError(
            f"{origin}: {prefix.rstrip('.') or 'the file'} must hold a table of settings, got {type(values).__name__}"
        )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{origin}: unknown setting {prefix + name!r}; known: {', '.join(sorted(fields))}")
        if isinstance(value, dict) and dataclasses.is_dataclass(hints[name]):
            default = typing.cast(Any, fields[name].default_factory)()
            value = dataclasses.asdict(default) | value  # what a nested table leaves out keeps its default there
        settings[name] = _typed(hints[name], value, origin, prefix + name)
    return cls(**settings)


def _typed(hint: Any, value: Any, origin: str, name: str) -> Any:
    """`value` (from JSON) as the annotated type, or an InputError."""
    if dataclasses.is_dataclass(hint):
        return _from_dict(typing.cast(type, hint), value, origin, f"{name}.")
    args = typing.get_args(hint)
    kind = typing.get_origin(hint)
    if kind in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _typed(next(a for a in args if a is not type(None)), value, origin, name)
    if kind is Literal:
        fits = value in args
    elif kind is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_typed(args[0], item, origin, name) for item in value)
        fits = False
    elif hint is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        wanted = "a list" if kind is tuple else getattr(hint, "__name__", str(hint))
        if kind is Literal:
            wanted = f"one of {list(args)}"
        raise InputError(f"{origin}: {name}: expected {wanted}, got {value!r}")
    return float(value) if hint is float else value


def list_presets() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.json"))


def describe_presets(names: Sequence[str] | None = None) -> str:
    """The presets (or `names`) in few words: what is called TARGET-tSTEPS-POLICY is told together.

    Example:
        >>> describe_presets(["ring-t10-fixed", "ring-t5-fixed", "well-t10-fixed", "well-t5-fixed", "digits"])
        '{ring, well}-t{5, 10}-fixed, digits'
    """
    policies: dict[tuple[str, int], list[str]] = {}
    steps: dict[tuple[str, str], list[int]] = {}
    targets: dict[str, list[str]] = {}
    others = []
    for name in sorted(list_presets() if names is None else names):
        if match := re.fullmatch(r"(.+)-t(\d+)-([a-z]+)", name):
            policies.setdefault((match[1], int(match[2])), []).append(match[3])
        else:
            others.append(name)
    for (target, count), found in sorted(policies.items()):
        steps.setdefault((target, _choice(found)), []).append(count)
    for (target, policy), counts in steps.items():
        targets.setdefault(f"-t{_choice(counts)}-{policy}", []).append(target)
    return ", ".join([*(_choice(found) + rest for rest, found in targets.items()), *others])


def _choice(options: Sequence[object]) -> str:
    return str(options[0]) if len(options) == 1 else "{" + ", ".join(map(str, options)) + "}"


def load_preset(name: str) -> TrainConfig:
    """Settings of a preset by name, or of a .json file by path.

    Raises:
        InputError: for an unknown name, an unreadable file, or settings that do not fit.
    """
    path = Path(name) if name.endswith(".json") else PRESETS / f"{name}.json"
    if not path.is_file():
        raise InputError(f"preset: expected one of [{describe_presets()}] or a .json file, got {name!r}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"preset {path}: not valid JSON ({error})") from error
    return TrainConfig.from_dict(values, origin=f"preset {name}")
