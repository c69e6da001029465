"""Compiled training is the same training, to rounding, and what cannot be compiled is said at once."""

import contextlib

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._pytree import tree_leaves

from ebbflow.agents import compilation
from ebbflow.agents.compilation import compiled
from ebbflow.agents.rows_innermost import linear
from ebbflow.envs import InputError, get_target
from ebbflow.envs.asinh import asinh
from ebbflow.trainers.trainer import Trainer


@pytest.fixture(autouse=True)
def fresh():
    """No test sees what another one has compiled."""
    yield
    compilation.compiled.cache_clear()
    compilation.check_compiler.cache_clear()
    torch.compiler.reset()


@pytest.fixture
def captured(monkeypatch):
    """All is captured as for the compiler, but run by torch's own kernels, which costs seconds instead of minutes."""
    plain = torch.compile

    def compile(function, *, dynamic=None, options=None):
        return plain(function, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", compile)


@pytest.fixture
def overwritten(monkeypatch):
    """Nothing is compiled, but what a call has returned is filled with NaN as soon as CUDA graphs may write over it."""
    found = {"alive": [], "gradients": [], "lost": 0}

    def compile(function, *, dynamic=None, options=None):
        assert options["triton.cudagraphs"]

        def run(*args):
            given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
            result = function(*args)
            storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            found["alive"] += [storage for storage in storages if storage.data_ptr() not in given]
            return result

        return run

    def begin():
        gradients = [p.grad.untyped_storage() for p in found["gradients"] if p.grad is not None]
        for storage in (*found["alive"], *gradients):
            storage.fill_(255)  # each byte: NaN in any floating point type
            found["lost"] += 1
        found["alive"].clear()

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", begin)
    monkeypatch.setattr("ebbflow.trainers.trainer.check_compiler", lambda: None)
    return found


def train(config, iterations=4, watch=None):
    trainer = Trainer(get_target(config.target), config)
    if watch is not None:
        watch["gradients"] += trainer.agent.parameters()
    losses = []
    for done in range(iterations):
        trainer.train(done)
        losses.append(trainer.step())
        trainer.iteration += 1
    return trainer, losses


def assert_alike(tiny, tolerance, iterations=3, cuda_graphs=False, watch=None, **changes):
    eager, expected = train(tiny(**changes), iterations)
    with no_breaks() if watch is None else contextlib.nullcontext():
        trainer, losses = train(tiny(compile=True, cuda_graphs=cuda_graphs, **changes), iterations, watch)
    for one, other in zip(losses, expected, strict=True):
        for key in one.keys():  # noqa: SIM118 (not a dict)
            torch.testing.assert_close(one[key], other[key], rtol=tolerance, atol=tolerance)
    for (name, one), (_, other) in zip(trainer.agent.named_parameters(), eager.agent.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    assert trainer.state_dict()["agent"].keys() == eager.state_dict()["agent"].keys()
    return trainer


@contextlib.contextmanager
def no_breaks():
    counters.clear()
    yield
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert counters["stats"]["unique_graphs"] > 0


CASES = {
    "bridge": {},
    "variance exploding": {
        "agent": {"reference": "variance_exploding", "tables": False, "gain": False, "shared_backbone": False},
        "replay": {"contents": "path"},
    },
    "variance preserving, scores": {
        "agent": {"reference": "variance_preserving", "langevin": True, "features": ["raw", "score"]},
        "exploration": {"scale": 1.5, "added": 0.2, "drift": 0.5},
        "trunk": "generation",
    },
    "contexts, plain coordinates": {
        "target": "conditional-gmm",
        "contexts_per_batch": 4,
        "agent": {"compression": None, "destruction_mean": "reference", "destruction_variance": "reference"},
    },
    "state flow": {"objective": "detailed_balance", "agent": {"forward_looking": True}, "target_rate": 0.0},
    "followed paths": {"objective": "reverse_kl", "destruction_objective": "tlm", "replay": {"share": 0.0}},
}


@pytest.mark.parametrize("case", CASES)
def test_capture_changes_nothing(tiny, captured, case):
    assert_alike(tiny, 1e-9, dtype="float64", **CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_that_a_cuda_graph_has_written_over(tiny, overwritten, case):
    """Rows moved by the policies, too, which are generated between two losses."""
    search = {"kind": "ebb_and_flow", "every": 1, "states": 8, "moves": 2} if case != "followed paths" else {}
    changes = {**CASES[case], "local_search": search} if CASES[case].get("target") is None else CASES[case]
    assert_alike(tiny, 1e-9, dtype="float64", cuda_graphs=True, watch=overwritten, **changes)
    assert overwritten["lost"] > 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_cuda_graphs_train_the_same_to_rounding(tiny, precision):
    """In float32 to its rounding; else to that of the products, which decide whether a gradient is large."""
    tolerance = 1e-3 if precision == "float32" else 2e-2
    changes = {"device": "cuda", "matmul_precision": precision, "agent": {"depth": 2}}
    assert_alike(tiny, tolerance, iterations=6, cuda_graphs=True, **changes)


def test_on_a_cpu_nothing_is_captured(tiny):
    function = compiled(kernels_of_a_row, cuda_graphs=True)
    kept = [function(torch.full((2,), float(i))) for i in range(3)]
    assert torch.stack(kept).tolist() == [[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]]


def kernels_of_a_row(x):
    return 2.0 * x


def test_cuda_graphs_are_of_what_is_compiled(tiny):
    with pytest.raises(InputError, match=r"^cuda_graphs: expected False without compile"):
        tiny(cuda_graphs=True)


def test_compiled_training_is_the_same_to_rounding(tiny):
    agent = {"destruction_mean": "reference", "destruction_variance": "reference"}  # less to compile, which takes long
    assert_alike(tiny, 1e-3, steps=2, agent={**agent, "compression": None, "gain": False})


def test_nothing_is_compiled_twice(tiny, captured):
    """New rows, replay and their numbers change from one iteration to the next; what is compiled does not."""
    trainer, _ = train(tiny(compile=True, iterations=40), 6)
    before = counters["stats"]["unique_graphs"]
    trainer.train()
    assert counters["stats"]["unique_graphs"] == before


def test_compiled_and_eager_runs_continue_each_other(tiny, captured):
    config = tiny(dtype="float64")
    whole, _ = train(config, 6)
    for first, second in ((False, True), (True, False)):
        state = train(tiny(dtype="float64", compile=first), 3)[0].state_dict()
        resumed = Trainer(get_target(config.target), tiny(dtype="float64", compile=second))
        resumed.load_state_dict(state)
        for _ in range(3):
            resumed.step()
            resumed.iteration += 1
        for one, other in zip(resumed.agent.parameters(), whole.agent.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def kernels(x, weight, bias):
    return asinh(linear(x, weight, bias)), asinh(1e-4 * x), asinh(1e4 * x)


def test_what_is_written_out_is_compiled_to_the_same_to_rounding():
    torch.manual_seed(0)
    given = [torch.randn(*shape, requires_grad=True) for shape in ((2, 5, 9), (6, 5), (6,))]
    results = []
    for function in (kernels, compiled(kernels)):
        values = function(*given)
        results.append([*values, *torch.autograd.grad(sum(value.sum() for value in values), given)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_no_compiler_is_told_at_once(tiny, monkeypatch):
    def compile(*_, **__):
        raise RuntimeError("\nInvalidCxxCompiler: no working C++ compiler found in ['g++', 'clang++']\nmore")

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(InputError, match=r"^compile: .*C\+\+ compiler.*no working C\+\+ compiler found") as error:
        Trainer(get_target("gmm25"), tiny(compile=True))
    assert "\n" not in str(error.value)
