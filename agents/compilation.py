"""Compiled steps: `torch.compile` of pure functions of tensors.

Modules are not wrapped: what is compiled is a function that is given the module, so parameters keep their names, and
one compiled function serves every module of that architecture.

On a GPU what is compiled can be captured as CUDA graphs, by inductor: all kernels of a call, or of its backward, are
then launched at once. A graph writes where it wrote when it was captured, so that a call writes over what the one
before it gave. Which calls belong together is said, not guessed: what they give is there until the next
`begin_graphs()`. So a step of a rollout is on its own, and its result copied; the passes of a loss and its backward are
together. The other way, `tensordict.nn.CudaGraphModule`, captures whole functions that detach what they return: that of
a training step would have the optimisers, and the numbers that change from one iteration to the next, frozen in it.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch

from ..envs.errors import InputError

__all__ = ["begin_graphs", "check_compiler", "compiled"]

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def compiled(function: Callable[P, R], *, dynamic: bool | None = None, cuda_graphs: bool = False) -> Callable[P, R]:
    """The compiled `function` of tensors and modules: the same one whenever it is asked for.

    Args:
        function: pure, of tensors and modules; not a method of an instance, which would be compiled for each anew.
        dynamic: as in `torch.compile`: True where sizes change from call to call; by default they are taken as they
            are at first, and as variable once they have changed.
        cuda_graphs: capture it as CUDA graphs, of which `begin_graphs` says when they may be replayed (module
            docstring). Of tensors on a CPU nothing is captured.

    Example:
        >>> def double(x):
        ...     return 2.0 * x
        >>> compiled(double) is compiled(double)
        True
    """
    # Sizes have been checked by guards already: a hundredth of an iteration for nothing.
    options: dict[str, Any] = {"size_asserts": False} | ({"triton.cudagraphs": True} if cuda_graphs else {})
    return cast(Callable[P, R], torch.compile(function, dynamic=dynamic, options=options))


def begin_graphs() -> None:
    """From here on what functions captured as CUDA graphs have returned, and their gradients, may be written over.

    Example:
        >>> begin_graphs()
        >>> compiled(torch.square, cuda_graphs=True) is compiled(torch.square, cuda_graphs=True)
        True
    """
    torch.compiler.cudagraph_mark_step_begin()


@functools.cache
def check_compiler() -> None:
    """Compile something small.

    Raises:
        InputError: when nothing can be compiled on this machine, with the reason.
    """
    try:
        torch.compile(lambda x: x + 1.0)(torch.zeros(2))
    except Exception as error:  # whatever the compiler's parts raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            "compile: expected a machine with a C++ compiler (such as g++; CXX names another one), which torch.compile "
            f"needs, got: {reason[:200]}; train without it instead"
        ) from error
