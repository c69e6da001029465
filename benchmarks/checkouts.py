"""Another checkout of this project, to be measured by a process of its own."""

import os
from pathlib import Path

__all__ = ["environment_of"]


def environment_of(checkout: Path, folder: Path) -> dict[str, str]:
    """The environment of a process on one thread for which `ebbflow` is that of `checkout`, by links in `folder`."""
    (folder / "ebbflow").mkdir(parents=True)
    for package in ("envs", "agents", "buffers", "trainers"):
        (folder / "ebbflow" / package).symlink_to(checkout.resolve() / package)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
