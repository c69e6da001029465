"""Modules from files: each kind comes back as it was, and nothing in a file is executed that should not be."""

import os
import pickle
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ebbflow.envs import InputError, LatentTarget, load_module


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).eval()


class Trap:
    """A pickle of it writes a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def save_torchscript(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(module, torch.zeros(2, 3)), path)


def save_exported(module, path):
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=(batch,)), path)


def save_parameters(module, path):
    save_file(module.state_dict(), path)


KINDS = [
    (save_torchscript, "module.pt", {}),
    (save_exported, "module.pt2", {}),
    (save_parameters, "module.safetensors", {"code": "builders:small"}),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, with a module in it that builds what the files hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "builders.py").write_text(
        "from torch import nn\n"
        "def small(width=5):\n"
        "    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 2))\n"
        "def nothing():\n"
        "    return 3\n"
    )
    yield tmp_path
    sys.modules.pop("builders", None)


@pytest.mark.parametrize(("save", "name", "how"), KINDS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_comes_back_as_it_was(save, name, how):
    module = small()
    save(module, name)
    loaded = load_module(name, **how)
    x = torch.randn(7, 3)
    torch.testing.assert_close(loaded(x), module(x), rtol=0, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training and loaded.eval() is loaded
    target = LatentTarget(3, loaded, lambda y: -y.square().sum(-1), reward_bound=0.0)
    value, score = target.value_and_score(x)
    expected = LatentTarget(3, module, lambda y: -y.square().sum(-1)).value_and_score(x)
    torch.testing.assert_close((value, score), expected, rtol=0, atol=1e-5)
    assert target.double()(x.double()).dtype == torch.float64
    assert target.sample(4).shape == (4, 3)


def test_arguments_reach_the_constructor():
    import builders

    save_parameters(builders.small(width=9), "wide.safetensors")
    wide = load_module("wide.safetensors", code="builders:small", arguments={"width": 9})
    assert wide[0].out_features == 9
    with pytest.raises(InputError, match=r"does not fit builders:small: RuntimeError: .*size mismatch"):
        load_module("wide.safetensors", code="builders:small")


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pth", ".bin", ".ckpt"])
def test_pickles_are_refused_by_name(here, suffix):
    path = here / f"network{suffix}"
    path.write_bytes(pickle.dumps(Trap(here / "sprung")))
    with pytest.raises(
        InputError, match=f"{suffix} files are pickles, which are never executed; save the parameters as"
    ):
        load_module(path)
    assert not (here / "sprung").exists()


@pytest.mark.parametrize("name", ["network.pt", "network.pt2", "network.safetensors"])
@pytest.mark.parametrize("archive", [True, False], ids=["torch.save", "pickle"])
def test_pickles_under_another_name_are_refused(here, name, archive):
    if archive:
        torch.save(Trap(here / "sprung"), here / name)
    else:
        (here / name).write_bytes(pickle.dumps(Trap(here / "sprung")))
    with pytest.raises(InputError, match=r"not a TorchScript archive|not an exported program|not a whole safetensors"):
        load_module(name, code="builders:small" if name.endswith("safetensors") else None)
    assert not (here / "sprung").exists()


def rewritten(source, goal, change):
    """An archive's copy, with members changed by `change(name, data) -> data` and added by `change(None, None)`."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(goal, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        root = old.namelist()[0].split("/")[0]
        for name, data in (change(None, None) or {}).items():
            new.writestr(f"{root}/{name}", data)


def test_a_pickle_inside_an_exported_program_is_not_executed(here):
    save_exported(small(), "module.pt2")
    trap = here / "trap.zip"
    torch.save((Trap(here / "sprung"),), trap)

    def plant(name, data):
        return trap.read_bytes() if name is not None and "sample_inputs" in name else data

    rewritten("module.pt2", "planted.pt2", plant)
    before = dict(os.environ)
    with pytest.raises(InputError, match=r"torch.export.load failed: UnpicklingError"):
        load_module("planted.pt2")
    assert not (here / "sprung").exists()
    assert dict(os.environ) == before
    torch.load(trap, weights_only=False)  # which is what torch.export.load falls back on, and the trap is a real one
    assert (here / "sprung").exists()


@pytest.mark.parametrize("member", ["data/aotinductor/model/a.so", "data/constants/opaque_obj_0"])
def test_native_code_and_objects_inside_an_exported_program_are_refused(member):
    save_exported(small(), "module.pt2")
    rewritten("module.pt2", "planted.pt2", lambda name, data: {member: b"x"} if name is None else data)
    with pytest.raises(InputError, match=f"holds pickled objects or native code .{member}"):
        load_module("planted.pt2")


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("none.pt", {}, "module file 'none.pt': no such file"),
        ("none.onnx", {}, "expected .pt, .pt2 or .safetensors, got '.onnx'"),
        ("none", {}, "expected .pt, .pt2 or .safetensors, got 'no suffix'"),
        ("empty.pt", {}, "module file 'empty.pt': not a TorchScript archive"),
        ("empty.pt2", {}, "module file 'empty.pt2': not an exported program"),
        ("empty.safetensors", {"code": "builders:small"}, "not a whole safetensors file"),
        ("empty.safetensors", {}, r"code 'package.module:Class' .* belong to safetensors files, which need it"),
        ("empty.pt", {"code": "builders:small"}, "to safetensors files, .* got code='builders:small'"),
        ("empty.pt2", {"arguments": {"width": 3}}, "to safetensors files, .* got code=None"),
        ("empty.safetensors", {"code": "builders"}, "code 'builders': expected package.module:attribute"),
        ("empty.safetensors", {"code": "nowhere:small"}, "code 'nowhere:small': cannot import nowhere: ModuleNotFound"),
        ("empty.safetensors", {"code": "builders:smal"}, "module builders has no attribute 'smal'; did you mean small"),
        ("empty.safetensors", {"code": "builders:nothing"}, "expected it to build a torch module, got int"),
        (
            "empty.safetensors",
            {"code": "builders:small", "arguments": {"widht": 3}},
            r"cannot be built with \{'widht': 3\}: TypeError: .*unexpected keyword argument",
        ),
    ],
)
def test_what_cannot_be_loaded_is_named(here, name, how, message):
    for suffix in (".pt", ".pt2", ".safetensors"):
        (here / f"empty{suffix}").write_bytes(b"")
    with pytest.raises(InputError, match=message) as caught:
        load_module(name, **how)
    assert "\n" not in str(caught.value)


def test_an_archive_cut_short_is_reported(here):
    save_torchscript(small(), "module.pt")
    save_exported(small(), "module.pt2")
    save_parameters(small(), "module.safetensors")
    for name in ("module.pt", "module.pt2", "module.safetensors"):
        path = here / name
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=f"module file '{name}'"):
            load_module(name, code="builders:small" if name.endswith("safetensors") else None)


def test_another_batch_size_than_exported_is_reported():
    torch.export.save(torch.export.export(small(), (torch.zeros(2, 3),)), "fixed.pt2")
    target = LatentTarget(3, load_module("fixed.pt2"), lambda y: -y.square().sum(-1))
    assert target(torch.zeros(2, 3)).shape == (2,)
    with pytest.raises(InputError, match="log_prob raised AssertionError: Guard failed"):
        target(torch.zeros(5, 3))
