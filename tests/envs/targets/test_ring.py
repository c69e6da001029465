"""The ring of Gaussians lies on its circle."""

import math

import pytest
import torch

from ebbflow.envs import InputError
from ebbflow.envs.targets.ring import ring


@pytest.mark.parametrize("modes", [2, 8, 13])
def test_modes_are_evenly_spaced_on_the_circle(modes):
    target = ring(modes, radius=4.0, std=0.1)
    assert target.name == f"ring{modes}" and target.means.shape == (modes, 2)
    torch.testing.assert_close(target.means.norm(dim=-1), torch.full((modes,), 4.0))
    chords = (target.means - target.means.roll(1, 0)).norm(dim=-1)
    torch.testing.assert_close(chords, torch.full((modes,), 8.0 * math.sin(math.pi / modes)), rtol=1e-5, atol=1e-5)
    assert target.means[0].tolist() == [4.0, 0.0]
    peak = -math.log(modes * 2 * math.pi * 0.01)
    assert target(target.means).tolist() == pytest.approx([peak] * modes, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modes": 1}, "modes: expected a whole number >= 2, got 1"),
        ({"radius": 0.0}, "radius: expected a positive finite length, got 0.0"),
        ({"std": -1.0}, "std: expected positive finite values"),
    ],
)
def test_bad_rings_are_reported(arguments, message):
    with pytest.raises(InputError, match=message):
        ring(**arguments)
