"""Nothing slower in silence: how much work one training iteration does, as exact counts that hold on any machine.

A count that changes is to be understood, and then written down here: a smaller one is a gain to be kept, a larger one
needs a reason. What the counts are worth in time is told in benchmarks/results/iteration_counts.md.
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ebbflow.agents.agent import Agent
from ebbflow.agents.backbone import Backbone
from ebbflow.envs import get_target
from ebbflow.trainers.config import TrainConfig
from ebbflow.trainers.many_runs import ManyRuns
from ebbflow.trainers.trainer import Trainer

# Counting waits -------------------------------------------------------------------------------------------------------

READS = {  # operations whose result, or its shape, the host must know before it can go on
    *("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
}
COPIES = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}  # which on a CPU are no operations
MADE = {torch.tensor, torch.as_tensor}  # on the host, and then copied to a device where one is given
FILLED = {  # where they are wanted: on the host, where nothing is said
    *(torch.arange, torch.zeros, torch.ones, torch.full, torch.eye, torch.linspace),
    *(torch.rand, torch.randn, torch.randint, torch.randperm),
}


class _Copies(TorchFunctionMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = function in MADE and kwargs.get("device") is not None
        where = (*args[1:], *(value for name, value in kwargs.items() if name in ("device", "other")))
        moves = any(isinstance(one, (torch.device, str, torch.Tensor)) for one in where)
        upload = function is torch.Tensor.to and moves and self.waits.is_on_host(args[0])
        upload = upload and not kwargs.get("non_blocking")
        copied = function in COPIES and not self.waits.is_on_host(args[0])
        if copied or function is torch.Tensor.new_tensor or given or upload:
            self.waits.names.append(function.__name__)
        result = function(*args, **kwargs)
        if (function in MADE and not given) or (function in FILLED and kwargs.get("device") is None):
            self.waits.on_host[result.data_ptr()] = result
        return result


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a device, were the tensors on one: `names` of the operations, in order.

    `item`, `float`, `bool`, `tolist`, `numpy`, `cpu`, `nonzero`, `unique`, `equal`, draws of `multinomial` one by one,
    and indices that are masks (one `nonzero` for each tensor indexed); and copies to the device that are not said to be
    non-blocking. Tensors that live on the host whatever the device are given as `on_host`; what is made without a
    device, or computed of such tensors alone, lives there, too.
    """

    def __init__(self, on_host=()):
        super().__init__()
        self.on_host = {tensor.data_ptr(): tensor for tensor in on_host}  # held, so that no other takes the address
        self.names = []

    def is_on_host(self, tensor):
        return not torch._C._functorch.is_functorch_wrapped_tensor(tensor) and tensor.data_ptr() in self.on_host

    def __enter__(self):
        self.copies = _Copies(self)
        self.copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.copies.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        checked = name == "multinomial" and (args[1] == 1 or not (args[2:3] or (False,))[0])  # inside of it
        masked = name.startswith(("index", "_index_put")) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        tensors = [argument for argument in tree_leaves(args) if isinstance(argument, torch.Tensor)]
        here = bool(tensors) and all(tensor.data_ptr() in self.on_host for tensor in tensors)
        if masked or ((checked or name in READS) and not here):
            self.names.append(name)
        result = function(*args, **(kwargs or {}))
        if here and isinstance(result, torch.Tensor):
            self.on_host[result.data_ptr()] = result
        return result


X = torch.tensor([1.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("work", "names"),
    [
        (lambda: X + X[1:].sum() * X[torch.tensor([0])], []),
        (lambda: X[0].item(), ["_local_scalar_dense"]),
        (lambda: float(X[0]), ["_local_scalar_dense"]),
        (lambda: 1 if X.any() else 0, ["_local_scalar_dense"]),
        (lambda: X.tolist(), ["tolist"]),
        (lambda: X.numpy(), ["numpy"]),
        (lambda: X.cpu(), ["cpu"]),
        (lambda: X.nonzero(), ["nonzero"]),
        (lambda: X.unique(), ["_unique2"]),
        (lambda: torch.equal(X, X), ["equal"]),
        (lambda: X[X > 0], ["index"]),
        (lambda: X.clone().index_put_((X > 0,), X[0]), ["index_put_"]),
        (lambda: X.masked_select(X > 0), ["masked_select"]),
        (lambda: X.multinomial(1), ["multinomial"]),
        (lambda: X.multinomial(2, replacement=True), []),
        (lambda: torch.where(X > 0, X, 0.0), []),
        (lambda: torch.tensor([1.0], device=X.device), ["tensor"]),
        (lambda: X.new_tensor([1.0]), ["new_tensor"]),
        (lambda: torch.tensor([1.0]).to(X.device), ["to"]),
        (lambda: torch.rand(1).to(X.device), ["to"]),
        (lambda: torch.rand(1).to(torch.float64), []),
        (lambda: torch.tensor([1.0]).to(X.device, non_blocking=True), []),
    ],
)
def test_waits_are_counted(work, names):
    with Waits() as waits:
        work()
    assert waits.names == names
    work()
    assert waits.names == names  # only inside


def test_what_lives_on_the_host_is_no_wait():
    other = X.clone()
    with Waits(on_host=[X]) as waits:
        assert X[0].item() and (X > 0).any() and X.tolist()
        (X + other).sum().item()
    assert waits.names == ["_local_scalar_dense"]


# Counting the work of an iteration ------------------------------------------------------------------------------------


class Work(NamedTuple):
    """What one iteration did."""

    backbone_calls: int
    backbone_rows: int  # states that went through a backbone
    generation_head_calls: int
    destruction_head_calls: int
    optimiser_steps: int
    energy_calls: int
    gradient_calls: int
    waits: int


BATCH = 32


def work_of_an_iteration(config):
    """Of the fifth, when there is a memory to draw from."""
    trainer = Trainer(get_target(config.target), config)
    trainer.look_every = 50  # as where the tensors are on a GPU
    trainer.train(4)
    calls = dict.fromkeys(("backbone", "rows", "generation", "destruction", "optimiser"), 0)

    def count(name, number=1):
        calls[name] += number

    agent, optimisers = trainer.agent, trainer.optimisers.optimisers.values()
    # On a GPU as well; tables of a reference of tokens or data are no buffers.
    tables = vars(getattr(agent, "reference", object)).values()
    on_host = [table for table in tables if isinstance(table, torch.Tensor)]
    on_host += [] if trainer.averaged is None else [trainer.averaged.n_averaged]
    before = trainer.energy_calls, trainer.gradient_calls
    with ExitStack() as hooks:

        def hook(handle):
            hooks.callback(handle.remove)

        for one in (agent, trainer.objective.target_agent) if trainer.objective.use_targets else (agent,):
            for module in one.modules():
                if isinstance(module, Backbone):
                    hook(module.register_forward_hook(lambda _, __, hidden: count("rows", hidden[..., 0].numel())))
                    hook(module.register_forward_hook(lambda *_: count("backbone")))
            for name in ("generation", "destruction") if isinstance(one, Agent) else ():
                hook(getattr(one, name).register_forward_hook(lambda *_, name=name: count(name)))
        for optimiser in optimisers:
            hook(optimiser.register_step_post_hook(lambda *_: count("optimiser")))
        waits = hooks.enter_context(Waits(on_host))
        trainer.step()
    energies, gradients = trainer.energy_calls - before[0], trainer.gradient_calls - before[1]
    return Work(*calls.values(), energies, gradients, len(waits.names)), waits.names


RECIPE = {
    "target": "gmm25",
    "batch_size": BATCH,
    "threads": 1,
    "agent": {"width": 16, "time_grid_power": 2.0},
    "anchors": {"count": 100, "temperatures": 3, "moves": 1, "final_moves": 2},
}
CASES = {
    # VarGrad of both policies, learned variances and destruction; half of a batch is from replay and anchors.
    "recipe": {},
    # The same with the reference destruction.
    "generation only": {"agent": {"destruction_mean": "reference", "destruction_variance": "reference"}},
    # Through the path, without memory, as for latents.
    "reverse KL and TLM": {
        "objective": "reverse_kl",
        "destruction_objective": "tlm",
        "replay": {"share": 0.0},
    },
}


def config_of(case, steps):
    changes = CASES[case]
    agent = {**RECIPE["agent"], **changes.get("agent", {})}
    return TrainConfig.from_dict({**RECIPE, **changes, "agent": agent, "steps": steps, "iterations": 20})


# Backbone calls: one a state of each rollout (generation; destruction where it is learned), which the loss makes use
# of, and one pass of the target networks over all T + 1 states. Where rollouts are not recorded, one a step of each,
# and a pass of the online networks, too. Reverse KL has one of each more, through the path, of which each policy's head
# reads one. Of x_0, which is the same for all paths, a rollout has one row.
# Energies: one a new path; gradients: one a path that is followed. Remembered rows cost neither.
# Waits: none. Whether densities, losses and gradients are finite is looked at every so often, outside of iterations.
EXPECTED = {
    ("recipe", 5): Work(13, 2 * (16 * 5 + 1) + 32 * 6, 7, 7, 3, 16, 0, waits=0),
    ("recipe", 20): Work(43, 2 * (16 * 20 + 1) + 32 * 21, 22, 22, 3, 16, 0, waits=0),
    ("generation only", 5): Work(6, 16 * 4 + 1 + 32 * 5, 6, 6, 2, 16, 0, waits=0),
    ("generation only", 20): Work(21, 16 * 19 + 1 + 32 * 20, 21, 21, 2, 16, 0, waits=0),
    ("reverse KL and TLM", 5): Work(9, 32 * 4 + 1 + 4 * 32 * 6, 8, 3, 3, 32, 32, waits=0),
    ("reverse KL and TLM", 20): Work(24, 32 * 19 + 1 + 4 * 32 * 21, 23, 3, 3, 32, 32, waits=0),
}


@pytest.mark.parametrize(("case", "steps"), EXPECTED)
def test_an_iteration_does_no_more_than_it_did(case, steps):
    found, waits = work_of_an_iteration(config_of(case, steps))
    assert found == EXPECTED[case, steps], waits


OTHERS = {
    "loss priority": {"replay": {"priority": "loss", "beta": 1.0}},
    "rank priority": {"replay": {"priority": "rank"}},
    "importance weights": {"replay": {"priority": "importance_weight", "beta": 0.5}},
    "stored paths": {"replay": {"contents": "path", "priority": "reward"}},
    "log derivative and stored paths": {
        "objective": "reverse_kl_log_derivative",
        "destruction_objective": "tlm",
        "replay": {"contents": "path"},
        "exploration": {"scale": 1.5},
    },
    "maximum likelihood": {"objective": "maximum_likelihood", "destruction_objective": "vargrad"},
    "state flow": {"objective": "sub_trajectory_balance"},
    "score": {"agent": {"features": ["raw", "score"]}, "exploration": {"drift": 0.1}},
    "Gaussian start": {"agent": {"reference": "variance_exploding"}},
    "no target networks, no average": {"target_rate": 0.0, "average_decay": 0.0},
    "one optimiser in double precision": {"single_optimiser": True, "dtype": "float64"},
    "tempered": {"exploration": {"inverse_temperature": 0.5}},
    "Langevin search": {"local_search": {"kind": "mala", "every": 1, "states": 16, "anchors": 8, "moves": 2}},
    "ebb-and-flow search": {"local_search": {"kind": "ebb_and_flow", "every": 1, "states": 16, "moves": 2}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_iteration_waits(name):
    values = {**RECIPE, "steps": 3, "iterations": 20}
    for field, value in OTHERS[name].items():
        values[field] = {**values.get(field, {}), **value} if isinstance(value, dict) else value
    _, waits = work_of_an_iteration(TrainConfig.from_dict(values))
    assert waits == []


DISCRETE_OR_DATA = {
    "two moons": {"target": "two-moons", "steps": 3},
    "two moons, TLM": {"target": "two-moons", "steps": 3, "destruction_objective": "tlm"},
    "digits, noise": {"target": "digits", "agent": {"reference": "noise_preserving"}},
    "digits with classes": {"target": "digits-labelled"},
    "tokens, in order": {"target": "digits-binary", "agent": {"reference": "mask_last"}},
    "tokens, any order": {"target": "digits-binary", "agent": {"reference": "mask_one_random"}},
    "tokens, learned order": {"target": "digits-binary", "agent": {"reference": "mask_learned_order"}},
    "tokens, shuffled": {"target": "digits-binary", "steps": 4, "agent": {"reference": "shuffle_every_token"}},
    "a density of tokens": {"target": "potts"},
    "contexts": {"target": "conditional-gmm", "steps": 3, "contexts_per_batch": 8, "anchors": {"count": 100}},
}


@pytest.mark.parametrize("name", DISCRETE_OR_DATA)
def test_no_iteration_on_data_tokens_or_contexts_waits(name):
    values = {"batch_size": BATCH, "iterations": 20, "threads": 1} | DISCRETE_OR_DATA[name]
    values["agent"] = {"width": 16} | values.get("agent", {})
    _, waits = work_of_an_iteration(TrainConfig.from_dict(values))
    assert waits == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_is_not_waited_for(case):
    """As its driver tells, which sees what is only counted here."""
    config = replace(config_of(case, 5), device="cuda")
    trainer = Trainer(get_target(config.target), config)
    trainer.train(4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.look()


def test_more_work_is_noticed(monkeypatch):
    plain = Trainer.step

    def step(trainer):
        paths = trainer.agent.generate(1, trainer.target)
        trainer.target.value_and_score(paths["state"][:, -1])
        trainer.agent.log_ratio(paths).tolist()
        trainer.optimisers.optimisers["log_z"].step()
        return plain(trainer)

    monkeypatch.setattr(Trainer, "step", step)
    found, _ = work_of_an_iteration(config_of("recipe", 5))
    more = [a - b for a, b in zip(found, EXPECTED["recipe", 5], strict=True)]
    assert more == [5 + 1, 4 + 1 + 6, 6, 1, 1, 2, 1, 4]  # waits: two values and a gradient are checked, and the list


# Many runs at once ----------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts operations that compute, which views do not."""

    VIEWS = ("view", "select", "slice", "expand", "unsqueeze", "squeeze", "transpose", "permute", "detach", "unbind")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        views = (*self.VIEWS, "t", "_unsafe_view", "alias", "split", "split_with_sizes")
        # And those that arrive as they are where nothing is noted of how tensors come to be.
        self.count += name not in (*views, "movedim", "narrow", "flatten", "unflatten", "expand_as", "contiguous")
        return function(*args, **(kwargs or {}))


def work_of_many(number, shares=(0.5,)):
    """Computing operations and waits of the fifth iteration of so many runs together."""
    config = config_of("recipe", 5)
    configs = [
        replace(config, seed=seed, replay=replace(config.replay, share=shares[seed % len(shares)]))
        for seed in range(number)
    ]
    runs = ManyRuns(get_target("gmm25"), configs)
    for trainer in runs.trainers:
        trainer.look_every = 50  # as on a GPU
    runs.train(4)
    with Operations() as operations, Waits([trainer.averaged.n_averaged for trainer in runs.trainers]) as waits:
        runs.step()
    return operations.count, waits.names


def test_one_run_more_takes_hardly_more_operations_and_no_wait():
    """It costs its random numbers (noise of 2T steps, two draws) and a few notes; everything else is shared."""
    (two, waits), (six, same) = work_of_many(2), work_of_many(6)
    assert (six - two) / 4 <= 2 * 5 + 2 + 8, (two, six)
    assert waits == same == []


def test_runs_that_draw_other_numbers_of_rows_wait_no_more_than_others():
    assert work_of_many(4, shares=(0.5, 0.25))[1] == []
