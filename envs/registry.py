"""Finding a target by what a person writes: a built-in name, a plugin, a file of data, or `package.module:attribute`.

Importing this module does not import torch, so that names can be listed and completed at once.
"""

import difflib
import functools
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from .errors import InputError, whole_number

if TYPE_CHECKING:
    from .target import Target

__all__ = ["BUILT_IN", "DATA", "SEQUENCES", "get_target", "import_attribute", "list_families", "list_targets"]

PLUGIN_GROUP = "ebbflow.targets"

BUILT_IN: dict[str, str] = {
    "gmm25": "25 Gaussians on a grid in 2 dimensions, covariance 0.3 I",
    "gmm25-narrow": "the same grid with standard deviation 0.15",
    "gmm40": "40 Gaussians with means uniform in [-40, 40]^2, standard deviation 1",
    "funnel": "Neal's funnel in 10 dimensions",
    "manywell-32": "16 pairs of two wells each, 65,536 modes",
    "manywell-narrow-32": "the same, wells half as wide, four times as deep",
    "manywell-distorted-32": "manywell-32 rotated and stretched at random",
    "student-t": "10 Student-t modes of infinite variance in 2 dimensions",
    "gmm-wishart": "10 Gaussians with random covariances in 2 dimensions",
    "ring8": "8 Gaussians on a circle in 2 dimensions",
    "banana": "a bent Gaussian in 2 dimensions",
    "rosenbrock": "Rosenbrock's density, a narrow parabola in 2 dimensions",
    "lgcp": "log-Gaussian Cox process on 40 x 40 cells, simulated",
    "lgcp-whitened": "the same, in coordinates independent a priori",
    "conditional-gmm": "4 Gaussians in 2 dimensions that move with a context",
}

SEQUENCES: dict[str, str] = {
    "potts": "tokens: a chain of 6 tokens out of 3 that like equal neighbours, a density of 729 sequences",
}

DATA: dict[str, str] = {
    "digits": "data: 8 x 8 grey images of digits as points of [-1, 1]^64",
    "digits-dequantised": "data: the same with noise within each of the 17 levels of grey",
    "digits-tokens": "data: the same as 64 tokens of 17 levels",
    "digits-binary": "data: the same as 64 tokens, dark or not",
    "digits-labelled": "data: digits with their class, 0 to 9, as the context of a conditional policy",
    "digits-dequantised-labelled": "data: digits-dequantised, likewise",
    "digits-tokens-labelled": "data: digits-tokens, likewise",
    "digits-binary-labelled": "data: digits-binary, likewise",
    "two-moons": "data: 10,000 points on two half circles in 2 dimensions",
    "checkerboard": "data: 10,000 points on the dark squares of a board in 2 dimensions",
    "python-docs": "data: Python's language reference in windows of 32 characters",
}

# Names that are one target, and names that a number follows: where the target is made (a module below this package,
# and a callable in it), and which of its arguments the number is. What ends in a hyphen may stand without it, with a
# `dim` that is this number.
_SINGLE = {
    "gmm25": "targets.mixtures:gmm25",
    "gmm25-narrow": "targets.mixtures:gmm25_narrow",
    "gmm40": "targets.mixtures:gmm40",
    "conditional-gmm": "targets.conditional_mixture:ConditionalMixture",
    "digits": "data.digits:digits",
    "digits-dequantised": "data.digits:digits_dequantised",
    "digits-tokens": "data.digits:digits_tokens",
    "digits-binary": "data.digits:digits_binary",
    "two-moons": "data.two_moons:two_moons",
    "checkerboard": "data.checkerboard:checkerboard",
}
_NUMBERED = {
    "funnel-": ("targets.funnel:Funnel", "dim"),
    "manywell-": ("targets.many_well:ManyWell", "dim"),
    "manywell-narrow-": ("targets.many_well:narrow_many_well", "dim"),
    "manywell-distorted-": ("targets.distorted_many_well:DistortedManyWell", "dim"),
    "student-t-": ("targets.student_t:student_t", "dim"),
    "gmm-wishart-": ("targets.covariance_mixture:gmm_wishart", "dim"),
    "ring": ("targets.ring:ring", "modes"),
    "banana-": ("targets.banana:Banana", "dim"),
    "rosenbrock-": ("targets.rosenbrock:Rosenbrock", "dim"),
    "lgcp-": ("targets.cox_process:CoxProcess", "dim"),
    "lgcp-whitened-": ("targets.cox_process:whitened_cox_process", "dim"),
    "potts-": ("targets.potts_chain:PottsChain", "length"),
    "digits-": ("data.digits:digits", "unique"),
    "digits-dequantised-": ("data.digits:digits_dequantised", "unique"),
    "digits-tokens-": ("data.digits:digits_tokens", "unique"),
    "digits-binary-": ("data.digits:digits_binary", "unique"),
    "python-docs-": ("data.python_docs:python_docs", "length"),
}
_LABELLED = ("digits", "digits-dequantised", "digits-tokens", "digits-binary")  # have classes, after -labelled
_DATA_FILES = (".npy", ".csv", ".txt")
_PLACEHOLDERS = {"dim": "<d>", "modes": "<n>", "unique": "<n>", "length": "<l>"}


def get_target(
    spec: "str | Target | Callable[..., Any]", *, dim: int | None = None, scale: float | None = None
) -> "Target":
    """The target that `spec` names, or is.

    Tried in this order: built-in names; plugins, entry points of the group `ebbflow.targets`; data, a `.npy`, `.csv` or
    `.txt` file or a folder of images (see `load_data`); and `package.module:attribute`, with the current folder
    importable as under `python -m`. A plugin or attribute may be a `Target`, a `Target` subclass or a factory with no
    required argument but `dim`, or a function of states: the log density, which needs `dim`. Each of these may also be
    given itself, in place of a name.

    Args:
        spec: name, plugin, path, `package.module:attribute`, target or function.
        dim: number of coordinates, or of tokens in a window of text, >= 1, for what leaves it open; may repeat what is
            fixed, not contradict it.
        scale: typical length of the density, > 0, in place of the target's own; set on the target itself.

    Raises:
        InputError: if nothing goes by that name, or it cannot be imported or built, or does not fit `dim`.

    Example:
        >>> get_target("manywell-64").space.dim
        64
        >>> get_target("funnel", dim=4, scale=2.0).scale
        2.0
        >>> get_target("gmm52")
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: target: unknown name 'gmm52'; did you mean gmm25...? Known: gmm25, ...
    """
    if dim is not None:
        whole_number("dim", dim, least=1)
    if scale is not None and not (_is_real(scale) and 0.0 < scale < math.inf):
        raise InputError(f"scale: expected a positive finite length, got {scale!r}")
    target = _resolve(spec, dim) if isinstance(spec, str) else _as_target(spec, _label_of(spec), dim)
    if dim is not None and target.space.shape != (dim,):
        kind = "coordinates" if hasattr(target.space, "dim") else "tokens"
        raise InputError(f"dim: target {target.name!r} has {target.space.shape[0]} {kind}, got {dim}")
    if scale is not None:
        target.scale = float(scale)
    return target


def list_targets() -> dict[str, str]:
    """One line on each known target, by name: built-in densities, data, then installed plugins (which are not loaded).

    Example:
        >>> list_targets()["gmm25"]
        '25 Gaussians on a grid in 2 dimensions, covariance 0.3 I'
    """
    lines = BUILT_IN | SEQUENCES | DATA
    for name, point in _plugins().items():
        source = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
        lines.setdefault(name, f"plugin {point.value}{source}")
    return lines


def list_families() -> list[str]:
    """Built-in names that a number completes: <d> coordinates, <n> modes or samples to learn from, <l> tokens.

    Example:
        >>> list_families()[:2]
        ['funnel-<d>', 'manywell-<d>']
    """
    return [prefix + _PLACEHOLDERS[argument] for prefix, (_, argument) in _NUMBERED.items()]


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _label_of(value: object) -> str:
    return f"target {getattr(value, 'name', None) or getattr(value, '__name__', type(value).__name__)!r}"


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda point: point.name)}


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _resolve(spec: str, dim: int | None) -> "Target":
    name = spec.strip()
    if built_in := _built_in(name, dim):
        return built_in
    plugins = _plugins()
    if name in plugins:
        label = f"target plugin {name!r} ({plugins[name].value})"
        try:
            value = plugins[name].load()
        except (Exception, SystemExit) as error:
            raise InputError(f"{label}: cannot be loaded: {_first_line(error)}") from error
        return _as_target(value, label, dim)
    if os.path.splitext(name)[1].lower() in _DATA_FILES or (name and os.path.isdir(name)):
        from .data.load import load_data

        return load_data(name, length=dim if name.lower().endswith(".txt") else None)
    if ":" in name:
        return _as_target(import_attribute(name, "target"), f"target {name!r}", dim)
    known = list(list_targets())
    close = difflib.get_close_matches(name.lower(), [*known, "manywell"], n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    raise InputError(
        f"target: unknown name {name!r}{hint} Known: {', '.join([*known, *list_families()])}, "
        "package.module:attribute, or data in a .npy, .csv or .txt file or a folder of images"
    )


def _built_in(name: str, dim: int | None) -> "Target | None":
    digits = name[len(name.rstrip("0123456789")) :]
    labels: dict[str, bool] = {}
    plain, labelled, rest = name.partition("-labelled")
    if labelled and plain in _LABELLED and rest in ("", f"-{digits}"):
        name, labels = plain + rest, {"labelled": True}
    if name in _SINGLE:
        return _make(_SINGLE[name], **labels)
    if digits and (prefix := name.removesuffix(digits)) in _NUMBERED:
        maker, argument = _NUMBERED[prefix]
        return _make(maker, **{argument: int(digits)}, **labels)
    if f"{name}-" not in _NUMBERED:
        return None
    maker, argument = _NUMBERED[f"{name}-"]
    if dim is not None:
        return _make(maker, **{argument: dim})
    if name not in BUILT_IN | SEQUENCES | DATA:
        listed = next(known for known in BUILT_IN if known.startswith(f"{name}-"))
        raise InputError(f"dim: target {name!r} needs an even number of coordinates; give dim, or write {listed}")
    return _make(maker)


def _make(maker: str, **arguments: int) -> "Target":
    module, _, attribute = maker.partition(":")
    built: Target = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)(**arguments)
    return built


def import_attribute(name: str, field: str) -> Any:
    """What `package.module:attribute` names, with the current folder importable as under `python -m`.

    Raises:
        InputError: if it cannot be imported; the message starts with the `field`.

    Example:
        >>> import_attribute("math:pi", "number")
        3.141592653589793
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise InputError(f"{field} {name!r}: expected package.module:attribute")
    if module_name.endswith(".py"):
        hint = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise InputError(f"{field} {name!r}: expected a module, not a file; write {hint}:{path}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InputError(f"{field} {name!r}: cannot import {module_name}: {_first_line(error)}") from error
    try:
        return functools.reduce(getattr, path.split("."), module)
    except AttributeError:
        names = [key for key in vars(module) if not key.startswith("_")]
        close = difflib.get_close_matches(path, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"{field} {name!r}: module {module_name} has no attribute {path!r}{hint}") from None


def _parameters(value: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """What `value` can be called with by name or position; None where that cannot be known."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and not isinstance(value, type):
        return None  # say, a module, or a decorated function
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _as_target(value: Any, label: str, dim: int | None) -> "Target":
    """A target out of what was found: itself, what it builds, or itself as a log density."""
    from .target import Target

    if isinstance(value, Target):
        return value
    if not callable(value):
        raise InputError(f"{label}: expected a Target, a factory of one or a log density, got {type(value).__name__}")
    parameters = _parameters(value)
    takes_dim = next((p for p in parameters or () if p.name == "dim"), None)
    required = [p.name for p in parameters or () if p.default is p.empty and p is not takes_dim]
    is_density = not isinstance(value, type) and (parameters is None or (required and not takes_dim))
    if is_density:
        if dim is None:
            raise InputError(f"dim: {label} is a function of states, so its number of coordinates must be given")
        from .targets.callable import CallableTarget

        return CallableTarget(value, dim=dim)
    if required:
        raise InputError(f"{label}: cannot be built without {', '.join(required)}; no argument but dim is passed to it")
    if takes_dim and dim is None and takes_dim.default is takes_dim.empty:
        raise InputError(f"dim: {label} needs a number of coordinates")
    try:
        built = value(dim=dim) if takes_dim and dim is not None else value()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{label}: cannot be built: {_first_line(error)}") from error
    if not isinstance(built, Target):
        raise InputError(f"{label}: expected it to build a Target, got {type(built).__name__}")
    return built
