"""Torch modules from files: generators and rewards that were trained elsewhere, without executing a pickle.

    .pt            a TorchScript archive, `torch.jit.save`
    .pt2           an exported program, `torch.export.save`; export it with a dynamic batch size
    .safetensors   parameters alone, for a class named as `package.module:Class`, with its constructor's arguments

Only the last is data alone, and then the class is code of yours. The other two are *programs*: torch runs what they
hold, with this process's rights. Load them from where you would also run a program from. Files of `torch.save` are
pickles, which execute anything on being read; they are refused, whatever they are called, and so is what a `.pt2` may
hold of pickles or native code.
"""

import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .errors import InputError
from .registry import import_attribute

__all__ = ["load_module"]

_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pth", ".th")


def load_module(
    path: str | os.PathLike[str], *, code: str | None = None, arguments: Mapping[str, Any] | None = None
) -> nn.Module:
    """The module in a file, on the CPU, frozen and in evaluation mode.

    Args:
        path: a `.pt` (TorchScript), `.pt2` (exported program) or `.safetensors` file (module docstring).
        code: for safetensors, the class (or function) that builds the module, as `package.module:Class`.
        arguments: keyword arguments of its constructor.

    Raises:
        InputError: for a file that is missing, damaged, of another kind or a pickle, and for a class that cannot be
            imported or built or has other parameters than the file.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file(nn.Linear(3, 2).state_dict(), "reward.safetensors")
        >>> reward = load_module(
        ...     "reward.safetensors", code="torch.nn:Linear", arguments={"in_features": 3, "out_features": 2}
        ... )
        >>> reward(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    file = Path(path)
    kind = file.suffix.lower()
    if kind in _PICKLES:
        raise InputError(f"module file {str(file)!r}: {kind} files are pickles, which are never executed; {_INSTEAD}")
    if kind not in (".pt", ".pt2", ".safetensors"):
        raise InputError(f"module file {str(file)!r}: expected .pt, .pt2 or .safetensors, got {kind or 'no suffix'!r}")
    if not file.is_file():
        raise InputError(f"module file {str(file)!r}: no such file")
    if (kind == ".safetensors") != (code is not None) or (arguments and code is None):
        raise InputError(
            f"module file {str(file)!r}: code 'package.module:Class' (and its arguments) belong to safetensors files, "
            f"which need it, and to no other; got code={code!r}"
        )
    if code is not None:
        module = _from_safetensors(file, code, dict(arguments or {}))
    else:
        module = _from_torchscript(file) if kind == ".pt" else _from_exported(file)
    for parameter in module.parameters():  # TorchScript modules have no requires_grad_
        parameter.requires_grad_(False)
    return module.eval()


_INSTEAD = "save the parameters as safetensors, or the module with torch.export.save"


class _Exported(nn.Module):
    """An exported program as a module: it is what it was exported as, and knows no other mode."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Any) -> Any:
        return self.program(*inputs)

    def train(self, mode: bool = True) -> "_Exported":
        self.training = False  # and the program itself refuses to be asked
        return self


def _from_safetensors(file: Path, code: str, arguments: dict[str, Any]) -> nn.Module:
    build = import_attribute(code, "code")
    try:
        module = build(**arguments)
    except Exception as error:
        raise InputError(f"code {code!r}: cannot be built with {arguments!r}: {_reason(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"code {code!r}: expected it to build a torch module, got {type(module).__name__}")
    try:
        module.load_state_dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise InputError(f"module file {str(file)!r}: not a whole safetensors file ({_reason(error)})") from error
    except RuntimeError as error:
        raise InputError(f"module file {str(file)!r}: does not fit {code}: {_reason(error)}") from error
    return module


def _from_torchscript(file: Path) -> nn.Module:
    names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    if not any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"module file {str(file)!r}: not a TorchScript archive; if torch.save wrote it, it is a pickle, which is "
            f"never executed; {_INSTEAD}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # archives outlive the compiler that made them
            return torch.jit.load(file, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"module file {str(file)!r}: torch.jit.load failed: {_reason(error)}") from error


def _from_exported(file: Path) -> nn.Module:
    from torch.export.pt2_archive import PT2ArchiveReader

    try:
        names = PT2ArchiveReader(str(file)).get_file_names()  # by the reader that will load it
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"module file {str(file)!r}: not an exported program: {_reason(error)}") from error
    foreign = [name for name in names if name.startswith("data/aotinductor/") or "/opaque_obj" in name]
    if foreign:
        raise InputError(
            f"module file {str(file)!r}: holds pickled objects or native code ({foreign[0]}), which are never executed"
        )
    try:
        with _weights_only():
            return _Exported(torch.export.load(file).module())
    except Exception as error:  # whatever torch meets in a damaged or foreign archive
        raise InputError(f"module file {str(file)!r}: torch.export.load failed: {_reason(error)}") from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Inside, `torch.load` reads tensors and nothing else: `torch.export.load` would fall back on full pickles."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}" if lines else type(error).__name__
