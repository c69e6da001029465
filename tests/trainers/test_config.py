"""Settings: their ranges, their JSON, presets, and that each explains itself."""

import dataclasses
import json
import math
import re
import typing

import pytest

from ebbflow.agents import AgentConfig
from ebbflow.envs import InputError
from ebbflow.trainers import TrainConfig
from ebbflow.trainers.config import (
    OPTIMISERS,
    LocalSearchConfig,
    OptimiserConfig,
    describe_presets,
    list_presets,
    load_preset,
)


def fields(kind=TrainConfig, prefix=""):
    """Dotted name of every setting that is not itself a table of settings."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        found += fields(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [prefix + name]
    return found


def nested(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def refusal(values):
    with pytest.raises(InputError) as caught:
        TrainConfig.from_dict(values, origin="here")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# There and back -------------------------------------------------------------------------------------------------------


def test_settings_survive_json():
    config = TrainConfig(
        target="gmm25",
        dim=2,
        scale=1.25,
        threads=2,
        destruction_objective="vargrad",
        agent=AgentConfig(features=("raw",), frequencies=(0.5, 3.0), sigma=2.0, tables=False),
        generation_optimiser=OptimiserConfig(rate=0.1 + 0.2, warmup=0),
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainConfig.from_dict(json.loads(json.dumps(TrainConfig().to_dict()))) == TrainConfig()
    assert TrainConfig.from_dict({}) == TrainConfig()


def test_whole_numbers_become_floats_where_floats_are_meant():
    config = TrainConfig.from_dict({"scale": 2, "agent": {"frequencies": [1, 2]}})
    assert type(config.scale) is float
    assert [type(f) for f in config.agent.frequencies] == [float, float]


@pytest.mark.parametrize("name", fields())
def test_a_value_of_a_wrong_type_is_refused_by_name(name):
    for wrong in ({"a": 1}, [[1]]):
        assert refusal(nested(name, wrong)).startswith(f"here: {name}: expected ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "here: unknown setting 'step'; known: agent, anchors, average_decay"),
        ({"agent": {"widht": 3}}, "here: unknown setting 'agent.widht'; known: compression, depth, "),
        ({"agent": 3}, "here: agent must hold a table of settings, got int"),
        ({"steps": "5"}, "here: steps: expected int, got '5'"),
        ({"steps": 5.0}, "here: steps: expected int, got 5.0"),
        ({"steps": True}, "here: steps: expected int, got True"),
        ({"batch_size": None}, "here: batch_size: expected int, got None"),
        ({"scale": "1"}, "here: scale: expected float, got '1'"),
        ({"dtype": "float16"}, "here: dtype: expected one of ['float32', 'float64'], got 'float16'"),
        ({"agent": {"tables": 1}}, "here: agent.tables: expected bool, got 1"),
        ({"agent": {"features": "raw"}}, "here: agent.features: expected a list, got 'raw'"),
        ({"agent": {"features": [1]}}, "here: agent.features: expected str, got 1"),
        ([], "here: the file must hold a table of settings, got list"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    assert refusal(values).startswith(message)


def test_a_choice_is_checked_also_where_settings_are_made_in_python():
    with pytest.raises(InputError, match=r"log_z_optimiser.schedule: expected one of \['cosine', 'cons.*'linear'"):
        TrainConfig(log_z_optimiser=OptimiserConfig(schedule="linear"))
    for field in ("dtype", "residual", "trunk", "target_networks"):
        with pytest.raises(InputError, match=f"^{field}: expected one of .*, got 'wrong'"):
            TrainConfig(**{field: "wrong"})
    with pytest.raises(InputError, match=r"local_search.kind: expected one of \['none', 'mala', 'ebb_and_flow'\]"):
        TrainConfig(local_search=LocalSearchConfig(kind="hmc"))


def test_local_search_must_fit_the_rest():
    search = {"kind": "ebb_and_flow", "steps_back": 5}
    assert TrainConfig.from_dict({"steps": 5, "local_search": search}).local_search.steps_back == 5
    assert refusal({"steps": 4, "local_search": search}) == (
        "local_search.steps_back: expected at most steps = 4, got 5"
    )
    assert TrainConfig.from_dict({"steps": 1}).local_search.kind == "none"  # what is off need not fit
    assert refusal({"local_search": {"kind": "mala"}, "replay": {"share": 0.0}}) == (
        "local_search.kind: expected 'none' where replay.share is 0, got 'mala'"
    )


WHOLE = {
    "steps": 1,
    "iterations": 1,
    "batch_size": 2,
    "seed": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "evaluation_samples": 2,
    "threads": 1,
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
RATES = [f"{name}.{what}" for name in OPTIMISERS for what in ("rate", "table_rate", "clip_norm")]
NUMBERS = {
    **{name: ([1e-9, 10.0], [0.0, -1.0, math.nan]) for name in RATES},
    **{f"{name}.decay": ([1e-9, 1.0], [0.0, -1.0, 1.01, math.nan]) for name in OPTIMISERS},
    "anchors.initial_scale": ([1e-9, 10.0], [0.0, -1.0, math.inf, math.nan]),
    "local_search.target_acceptance": ([0.01, 0.99], [0.0, 1.0, math.nan]),
    "scale": ([1e-9, 10.0], [0.0, -1.0, math.inf, math.nan]),
    "subtb_lambda": ([0.0, 2.0, math.inf], [-0.01, math.nan]),
    "residual_bound": ([1e-9, 1e9], [0.0, -1.0, math.nan]),
    "log_reward_floor": ([-1e-9, -1e30], [0.0, 1.0, -math.inf, math.nan]),
    **{
        name: ([0.0, 0.5, 1.0], [-0.01, 1.01, math.nan])
        for name in ("target_rate", "replay.share", "replay.uniform_mixture", "replay.beta", "anchors.share")
    },
    **{
        name: ([0.0, 0.999], [-0.01, 1.0, math.nan])
        for name in ("average_decay", *(f"{name}.{beta}" for name in OPTIMISERS for beta in ("beta1", "beta2")))
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_range_of_whole_numbers(name):
    least = WHOLE[name]
    for fine in (least, least + 1, 10**9):
        assert TrainConfig.from_dict(nested(name, fine)).lookup(name) == fine
    for wrong in (least - 1, -(10**9)):
        assert refusal(nested(name, wrong)) == f"{name}: expected a whole number >= {least}, got {wrong}"


@pytest.mark.parametrize("name", NUMBERS)
def test_the_range_of_numbers(name):
    good, bad = NUMBERS[name]
    for fine in good:
        assert TrainConfig.from_dict(nested(name, fine)).lookup(name) == fine
    for wrong in bad:
        assert refusal(nested(name, wrong)).startswith(f"{name}: expected a ")


def test_extremes():
    assert TrainConfig(seed=2**63 - 1).seed == 2**63 - 1
    assert refusal({"seed": 2**63}) == f"seed: expected a whole number below 2^63, got {2**63}"
    unclipped = TrainConfig.from_dict({"log_z_optimiser": {"clip_norm": math.inf}}).log_z_optimiser
    assert unclipped.clip_norm == math.inf and unclipped.rate == 1e-1  # what is left out keeps its default there
    assert "generation_optimiser.rate" in refusal({"generation_optimiser": {"rate": math.inf}})


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*list_presets(), None])
def test_every_preset_can_be_loaded_and_names_its_target(name):
    if name is None:  # so that the test is there without presets, too
        with pytest.raises(InputError, match=r"preset: expected one of \[.*\] or a .json file, got 'nope'"):
            load_preset("nope")
    else:
        config = load_preset(name)
        assert config.target
        if match := re.fullmatch(r"(.+)-t(\d+)-(fixed|generation|adaptive)", name):
            target, steps, variant = match.groups()
            agent = TrainConfig().agent.variant(variant)
            recipe = TrainConfig(target=target, steps=int(steps), iterations=2000, threads=1, agent=agent)
            assert config == recipe  # a table row is the recipe with the variant's policies, and nothing else


def test_the_presets_are_told_in_few_words():
    """By their names, every one."""
    options = re.match(r"\{([^}]*)\}-t\{([^}]*)\}-\{([^}]*)\}", describe_presets())
    targets, steps, policies = (option.split(", ") for option in options.groups())
    told = {f"{target}-t{count}-{policy}" for target in targets for count in steps for policy in policies}
    others = {name for name in list_presets() if not re.search(r"-t\d+-", name)}
    assert told == set(list_presets()) - others
    assert describe_presets()[options.end() :] == "".join(f", {name}" for name in sorted(others))
    assert {"5", "10", "20"} == set(steps) and {"fixed", "generation", "adaptive"} == set(policies)
    assert describe_presets(["a-t5-x", "a-t5-y", "b-t5-x", "c"]) == "a-t5-{x, y}, b-t5-x, c"


def test_a_preset_is_any_file_of_settings(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(TrainConfig(target="gmm40", steps=7).to_dict()))
    assert load_preset(str(path)) == TrainConfig(target="gmm40", steps=7)
    path.write_text('{"steps": 4}')
    assert load_preset(str(path)) == TrainConfig(steps=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: 3", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1]", "the file must hold a table of settings, got list"),
        (b'{"steps": 0}', "steps: expected a whole number >= 1, got 0"),
        (b'{"nope": 0}', "unknown setting 'nope'"),
    ],
)
def test_an_unusable_preset_file_is_named(content, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_preset(str(path))
    assert message in str(caught.value) and "\n" not in str(caught.value)
