"""The house: which package may import which, what a wheel holds, and what is not imported before it is needed."""

import ast
import configparser
import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("envs", "agents", "buffers", "trainers")

# What each package may import from its neighbours: a package ("envs"), or one module of it ("envs.spaces").
ALLOWED = {
    "envs": (),
    "agents": ("envs.spaces", "envs.asinh", "envs.errors", "envs.deferred_checks", "envs.channels"),
    "buffers": ("envs", "agents"),
    "trainers": ("envs", "agents", "buffers"),
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def packages_on_disk() -> dict[str, str]:
    """Import name and folder of each package: a folder with an `__init__.py`."""
    folders = [path.parent.relative_to(ROOT) for path in sources() if path.name == "__init__.py"]
    return {".".join(("ebbflow", *folder.parts)): folder.as_posix() for folder in folders}


# Arrows ---------------------------------------------------------------------------------------------------------------


def forbidden_imports(code: str, path: Path) -> list[str]:
    """Imports in `code` that the arrows forbid; `path` is the file's place below the root."""
    here = path.parts[0]
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            parents = path.parent.parts[: len(path.parent.parts) - node.level + 1]
            module = (*parents, *(node.module or "").split("."))
            targets = [".".join(filter(None, (*module, alias.name))) for alias in node.names]
            allowed = (here, *ALLOWED[here])
            found += [name for name in targets if not any(f"{name}.".startswith(f"{ok}.") for ok in allowed)]
            continue
        else:
            continue
        found += [name for name in names if name.split(".")[0] in ("ebbflow", *PACKAGES)]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_follow_the_arrows(path):
    assert forbidden_imports(path.read_text(encoding="utf-8"), path.relative_to(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "code", "found"),
    [
        ("envs/new.py", "from ..agents.actors import Agent", ["agents.actors.Agent"]),
        ("envs/targets/new.py", "from ...buffers import replay", ["buffers.replay"]),
        ("envs/targets/new.py", "from .. import errors\nfrom ..target import Target\nfrom . import funnel", []),
        ("agents/new.py", "from ..envs.target import Target", ["envs.target.Target"]),
        ("agents/new.py", "from ..envs import Target", ["envs.Target"]),
        ("agents/references/new.py", "from ...envs.spaces import Continuous\nfrom ..features import Raw", []),
        ("buffers/new.py", "def f():\n    from ..trainers.train import main", ["trainers.train.main"]),
        ("buffers/new.py", "from ..envs.target import Target\nfrom .. import agents", []),
        ("trainers/new.py", "import torch, ebbflow.envs.target", ["ebbflow.envs.target"]),
        ("trainers/new.py", "from ebbflow.envs import Target", ["ebbflow.envs"]),
        ("trainers/new.py", "from envs import Target", ["envs"]),
        ("trainers/new.py", "from ..benchmarks import speed", ["benchmarks.speed"]),
    ],
)
def test_the_arrows_are_checked(path, code, found):
    assert forbidden_imports(code, Path(path)) == found


# Packaging ------------------------------------------------------------------------------------------------------------


def test_setup_cfg_lists_the_folders():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    mapping = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    assert mapping == packages_on_disk()
    assert config["options"]["packages"].split() == list(mapping)


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> set[str]:
    """Names in a wheel, built from a copy so that nothing is left in the working tree."""
    copy = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", "out", "."],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (copy / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_installs_one_name(wheel_files):
    top = {name.split("/")[0] for name in wheel_files}
    (dist_info,) = top - {"ebbflow"}
    assert "ebbflow" in top
    assert dist_info.startswith("ebbflow-") and dist_info.endswith(".dist-info")
    assert "ebbflow/__init__.py" not in wheel_files  # a namespace, open to others


def test_a_wheel_holds_every_file_of_the_packages(wheel_files):
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {f"ebbflow/{path.relative_to(ROOT).as_posix()}" for path in files if "__pycache__" not in path.parts}
    assert expected == {name for name in wheel_files if name.startswith("ebbflow/")}
    assert {f"ebbflow/{package}/py.typed" for package in PACKAGES} <= expected


# Imports --------------------------------------------------------------------------------------------------------------


def torch_is_loaded_after(code: str) -> bool:
    """Whether a fresh interpreter that has run `code` (and may exit with 0 from it) has imported torch."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    result = subprocess.run(
        [sys.executable, "-c", script + "print('torch' in sys.modules)"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return {"True": True, "False": False}[result.stdout.splitlines()[-1]]


def test_importing_the_packages_leaves_torch_alone():
    assert not torch_is_loaded_after("import ebbflow.envs, ebbflow.agents, ebbflow.buffers, ebbflow.trainers")
    assert torch_is_loaded_after("from ebbflow.envs import Target")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_leaves_torch_alone(arguments):
    run = f"from ebbflow.trainers.cli import main; sys.argv = ['ebbflow', *{arguments}]; main()"
    assert not torch_is_loaded_after(run)


@pytest.mark.parametrize("name", packages_on_disk())
def test_packages_say_what_they_are_and_export_what_they_list(name):
    package = importlib.import_module(name)
    assert package.__doc__ and package.__doc__.strip()
    for exported in package.__all__:
        assert getattr(package, exported) is not None, exported
