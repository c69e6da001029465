"""Compiled steps: `torch.compile` of pure functions of tensors, with what its CPU backend leaves slow done otherwise.

Inductor hands matrix products of a training to the BLAS library as they are, computes asinh number by number, which
keeps all that is fused with it from being vectorised, and leaves products with a side of a few numbers (the tables of
the heads) to a batched product that is slow at them. `_CpuKernels` puts in their place: products of oneDNN, which uses
the widest instructions of any processor (in single precision); asinh by log1p and sqrt, which are vectorised,

    asinh x = sign(x) · log1p(|x| + x² / (1 + √(1 + x²))),    exact to rounding near 0 as well;

and a product and a sum, which are fused with their surroundings. On a GPU nothing is put in place.

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
from torch import Tensor

from ..envs.errors import InputError

__all__ = ["begin_graphs", "check_compiler", "compiled"]

P = ParamSpec("P")
R = TypeVar("R")

_NARROW = 4


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
        >>> def double(x: Tensor) -> Tensor:
        ...     return 2.0 * x
        >>> compiled(double) is compiled(double)
        True
    """
    options = _options() | ({"triton.cudagraphs": True} if cuda_graphs else {})
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
        torch.compile(lambda x: x + 1.0, options=_options())(torch.zeros(2))
    except Exception as error:  # whatever the compiler's parts raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            "compile: expected a machine with a C++ compiler (such as g++; CXX names another one), which torch.compile "
            f"needs, got: {reason[:200]}; train without it instead"
        ) from error


@functools.cache
def _options() -> dict[str, Any]:
    from torch._inductor.custom_graph_pass import CustomGraphPass  # here, for it takes a second

    aten = torch.ops.aten
    linear = _onednn_linear()

    class _CpuKernels(CustomGraphPass):
        """See the module docstring."""

        def __call__(self, graph: torch.fx.graph.Graph) -> None:
            for node in list(graph.nodes):
                value = node.meta.get("val")
                if node.op != "call_function" or not isinstance(value, Tensor) or value.device.type != "cpu":
                    continue
                with graph.inserting_before(node):
                    new = self.instead_of(graph, node)
                if new is not None:
                    node.replace_all_uses_with(new)
                    graph.erase_node(node)
            graph.lint()

        def instead_of(self, graph: torch.fx.graph.Graph, node: Any) -> Any:
            def call(function: Any, *args: Any) -> Any:
                made = graph.call_function(function, args)
                values = torch.fx.node.map_arg(args, lambda argument: argument.meta["val"])
                made.meta["val"] = function(*values)  # of fake tensors: a shape
                return made

            if node.target in (aten.mm.default, aten.addmm.default) and node.meta["val"].dtype == torch.float32:
                *bias, left, right = node.args
                if linear is None or node.kwargs or (bias and bias[0].meta["val"].ndim != 1):
                    return None
                return call(linear, left, call(aten.permute.default, right, [1, 0]), bias[0] if bias else None)
            return None

        def uuid(self) -> str:
            return f"ebbflow-cpu-kernels-2-{linear is not None}"  # part of the key of inductor's cache on disk

    return {"post_grad_custom_post_pass": _CpuKernels()}


@functools.cache
def _onednn_linear() -> Any:
    """x @ w.T + b by oneDNN, as an operation; None where torch has no oneDNN.

    Inductor's own one takes only weights that do not change.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    product = torch.ops.mkldnn._linear_pointwise.default
    torch.library.define("ebbflow::linear", "(Tensor x, Tensor w, Tensor? b) -> Tensor")
    torch.library.impl("ebbflow::linear", "CPU", lambda x, w, b: product(x, w, b, "none", [], ""))
    torch.library.register_fake("ebbflow::linear", lambda x, w, b: x.new_empty(x.shape[0], w.shape[0]))
    return torch.ops.ebbflow.linear.default
