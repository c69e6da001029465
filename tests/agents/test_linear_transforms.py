"""Deterministic destruction: cold transforms, which drop directions, and bijections, which drop none."""

import math
from itertools import pairwise

import pytest
import torch

from ebbflow.agents import DenoisingAgent, PointNetwork
from ebbflow.agents.references import geometric_noise
from ebbflow.agents.references.continuous import (
    Bijection,
    ColdTransform,
    GaussianNoise,
    blur,
    information_kept,
    pixelate,
    random_permutations,
    random_rotations,
)
from ebbflow.envs import Continuous, InputError
from ebbflow.envs.channels import FiniteChannel, account

pytestmark = pytest.mark.usefixtures("double_precision")

SPACE = Continuous(64)
CENTRE = torch.linspace(0.0, 1.0, 64, dtype=torch.float64)
REFERENCES = {
    "pixelate": lambda: pixelate(8, 8),
    "pixelate_singleton": lambda: pixelate(8, 8, singleton=True, centre=CENTRE),
    "blur": lambda: blur(8, 8, steps=5),
    "blur_singleton": lambda: blur(8, 8, steps=5, singleton=True),
    "rotations": lambda: Bijection(SPACE, random_rotations(64, steps=5, seed=0)),
    "permutations": lambda: Bijection(SPACE, random_permutations(64, steps=3, seed=0), centre=CENTRE),
}


@pytest.fixture(params=REFERENCES)
def reference(request):
    return REFERENCES[request.param]()


# Transforms -----------------------------------------------------------------------------------------------------------


def test_steps_compose_to_levels(reference):
    x = torch.randn(4, 64)
    state = x
    assert reference.deterministic and not reference.has_density and reference.markov
    for k in reversed(range(reference.steps)):
        state = reference.sample_step_given(state, x, k)
        torch.testing.assert_close(state, reference.sample_level(x, k))
    torch.testing.assert_close(reference.sample_level(x, reference.steps), x)


def test_steps_of_their_own_for_each_state(reference):
    x = torch.randn(3, 7, 64)
    k = torch.randint(reference.steps, (3, 7))
    step, level, back = (
        reference.sample_step(x, k),
        reference.sample_level(x, k + 1),
        reference.sample_reverse(x, x.flip(0), k),
    )
    for i in range(3):
        for j in range(7):
            one = int(k[i, j])
            torch.testing.assert_close(step[i, j], reference.sample_step(x[i, j], one))
            torch.testing.assert_close(level[i, j], reference.sample_level(x[i, j], one + 1))
            torch.testing.assert_close(back[i, j], reference.sample_reverse(x[i, j], x[2 - i, j], one))


def test_the_right_guess_undoes_all_of_it(reference):
    x = torch.randn(4, 64)
    agent = DenoisingAgent(reference, lambda state, k: x.expand(state.shape))
    state = reference.sample_level(x, 0)
    for k in range(reference.steps):
        state = reference.sample_reverse(agent.guess(state, k), state, k)
        torch.testing.assert_close(state, reference.sample_level(x, k + 1))


def test_what_the_centre_is_no_step_changes(reference):
    torch.testing.assert_close(reference.sample_level(reference.centre, 0), reference.centre)


def test_a_forgiving_step_keeps_what_is_there():
    """What a wrong guess is wrong by at level k cancels; without forgiveness it stays."""
    x, guess = torch.randn(2, 64)
    for k in range(3):
        forgiving, other = pixelate(8, 8), pixelate(8, 8)
        other.forgiving = False
        state = forgiving.sample_level(x, k)
        for one, cancels in ((forgiving, True), (other, False)):
            after = one.sample_reverse(guess, state, k)
            assert torch.allclose(one.sample_level(after, k), state) == cancels


def test_pixelation_is_means_over_blocks():
    reference, image = pixelate(8, 4), torch.randn(8, 4)
    assert reference.steps == 3 and reference.ranks == [1, 2, 8, 32]
    for k, block in ((2, (2, 2)), (1, (4, 4)), (0, (8, 4))):
        seen = reference.sample_level(image.flatten(), k).reshape(8, 4)
        means = torch.nn.functional.avg_pool2d(image[None, None], block)
        torch.testing.assert_close(seen, torch.nn.functional.interpolate(means, size=(8, 4))[0, 0])


def test_blur_is_a_gaussian_that_reflects_at_the_borders():
    """Against sums over mirror images of the pixels, and a row of pixels wide enough to count as continuous."""
    reference = blur(1, 64, steps=3, narrowest=2.0, widest=6.0)
    image = torch.zeros(64).index_fill(0, torch.tensor([20]), 1.0)
    places = torch.arange(64.0)
    for k, std in ((2, 2.0), (1, 6.0)):
        mirrored = torch.tensor([m * 128.0 + sign for m in range(-3, 4) for sign in (20.0, -21.0)])
        expected = (-0.5 * ((places.unsqueeze(1) - mirrored) / std) ** 2).exp().sum(1) / (std * math.sqrt(2 * math.pi))
        assert (reference.sample_level(image, k) - expected).abs().max() < 1e-6
    torch.testing.assert_close(reference.sample_level(image, 0), torch.full((64,), 1 / 64))


# The fully destroyed law ----------------------------------------------------------------------------------------------


def test_the_destroyed_law_is_refused_where_the_data_alone_know_it():
    with pytest.raises(InputError, match="destroyed: expected a law of x_0, got None: a bijection destroys nothing"):
        REFERENCES["rotations"]().sample_destroyed(3)
    for name in ("pixelate", "blur"):
        for ask in (lambda r: r.sample_destroyed(3), lambda r: r.log_prob_destroyed(torch.zeros(64))):
            with pytest.raises(InputError, match="got None: 1 of 64 directions of the data are left, whose law only"):
                ask(REFERENCES[name]())


def test_a_destroyed_law_may_be_given():
    data = torch.randn(5, 64)
    reference = REFERENCES["rotations"]()
    reference.law_of(reference.sample_level(data, 0))
    agent = DenoisingAgent(reference, lambda state, k: torch.zeros_like(state))
    samples = agent.generate(200)["state"][:, -1]
    nearest = torch.cdist(samples, data, compute_mode="donot_use_mm_for_euclid_dist").min(-1)
    assert nearest.values.max() < 1e-9 and nearest.indices.unique().numel() == 5
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(64), 1.0), 1)
    given = Bijection(SPACE, reference.matrices, destroyed=normal)
    assert given.sample_destroyed(7).shape == (7, 64)
    torch.testing.assert_close(given.log_prob_destroyed(data), normal.log_prob(data))
    with pytest.raises(InputError, match=r"destroyed: expected samples \[n, 64\] or a law of them, got tensor"):
        Bijection(SPACE, reference.matrices, destroyed=torch.zeros(5, 3))


def test_down_to_a_point_there_is_one_sample():
    for name in ("pixelate_singleton", "blur_singleton"):
        reference = REFERENCES[name]()
        assert reference.ranks[0] == 0
        torch.testing.assert_close(reference.sample_destroyed(3), reference.centre.expand(3, -1))
        samples = DenoisingAgent(reference, PointNetwork(reference, width=8)).generate(4)["state"][:, -1]
        torch.testing.assert_close(samples, samples[:1].expand(4, -1))


# Information ----------------------------------------------------------------------------------------------------------


def test_directions_are_dropped_or_kept():
    covariance = torch.eye(64)
    kept = {name: [one.directions for one in information_kept(make(), covariance)] for name, make in REFERENCES.items()}
    assert kept == {
        "pixelate": [1, 4, 16, 64],
        "pixelate_singleton": [0, 1, 4, 16, 64],
        "blur": [1, 26, 64, 64, 64, 64],  # 26 in double precision: the other 38 are blurred by more than 1e-16
        "blur_singleton": [0, 26, 64, 64, 64, 64],
        "rotations": [64] * 6,
        "permutations": [64] * 4,
    }
    flat = torch.ones(64, 64)  # data of one direction alone, which is the mean of an image
    assert [one.directions for one in information_kept(REFERENCES["pixelate"](), flat)] == [1, 1, 1, 1]
    assert information_kept(REFERENCES["pixelate_singleton"](), flat)[0] == (0.0, 0)


def test_noise_loses_nats_from_step_to_step():
    covariance = torch.diag(torch.tensor([4.0, 1.0]))
    reference = GaussianNoise(Continuous(2), geometric_noise(8, smallest=0.1, largest=50.0))
    kept = [one.nats for one in information_kept(reference, covariance)]
    assert kept[-1] == math.inf and information_kept(reference, covariance)[-1].directions == 2
    assert 0.0 < kept[0] < 2e-3
    assert all(low < high for low, high in pairwise(kept))
    for k, (a, v) in enumerate(zip(reference.level_factor[:-1], reference.level_variance[:-1], strict=True)):
        joint = torch.stack(
            [covariance.diag(), a * covariance.diag(), a * covariance.diag(), covariance.diag() * a**2 + v]
        )
        determinant = joint[0] * joint[3] - joint[1] * joint[2]
        assert kept[k] == pytest.approx(0.5 * (joint[0] * joint[3] / determinant).log().sum().item())


def test_a_bijection_of_finitely_many_states_keeps_their_information():
    """Permutations of the coordinates of {0, 1}³, as the channels between its eight points that they are."""
    reference = Bijection(Continuous(3), random_permutations(3, steps=4, seed=1))
    states = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
    weights = torch.tensor([4.0, 2.0, 1.0])
    law = torch.linspace(-1.0, 2.0, 8).softmax(0)
    channels = []
    for k in reversed(range(4)):
        goes = (reference.sample_step(states, k) @ weights).long()
        channels.append(FiniteChannel(torch.eye(8)[goes]))
    books = account(law, channels)
    entropy = -(law * law.log()).sum().item()
    assert list(books.destruction_story) == pytest.approx([entropy] * 5, abs=1e-12)
    assert all(abs(step.destroyed) < 1e-12 for step in books.steps)
    # Averaging two coordinates, for comparison, destroys.
    mean = ColdTransform(Continuous(3), [[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    _, goes = mean.sample_level(states, 0).unique(dim=0, return_inverse=True)
    assert account(law, [FiniteChannel(torch.eye(8)[goes])]).steps[0].destroyed > 0.2


# Errors ---------------------------------------------------------------------------------------------------------------


def test_densities_do_not_exist(reference):
    x = torch.randn(2, 64)
    for ask in (
        lambda: reference.log_prob_step(x, x, 0),
        lambda: reference.log_prob_step_given(x, x, x, 0),
        lambda: reference.log_prob_level(x, x, 0),
        lambda: reference.log_prob_reverse(x, x, x, 0),
        lambda: DenoisingAgent(reference, lambda state, k: state).log_ratio(
            DenoisingAgent(reference, lambda state, k: state).destroy(x)
        ),
    ):
        with pytest.raises(InputError, match=r"reference: .* has no density of a .*, which is deterministic, so that"):
            ask()


def test_settings_out_of_range():
    for make, message in [
        (lambda: ColdTransform(SPACE, [torch.eye(3)]), r"matrices: expected .* \[1, 64, 64\], got \[1, 3, 3\]"),
        (lambda: ColdTransform(SPACE, [torch.eye(64) / 0.0]), "matrices: expected finite numbers"),
        (lambda: ColdTransform(SPACE, torch.zeros(0, 64, 64)), "steps: expected a whole number >= 1, got 0"),
        (lambda: pixelate(8, 8, centre=torch.zeros(3)), r"centre: expected one point \[64\], got \[3\]"),
        (lambda: pixelate(6, 8), "height: expected a power of 2, got 6"),
        (lambda: blur(8, 8, 4, narrowest=9.0), "widest: expected a number > narrowest = 9.0, got 4.0"),
        (
            lambda: Bijection(SPACE, torch.zeros(1, 64, 64)),
            r"matrices: expected invertible ones, of rank 64, got ranks",
        ),
        (lambda: random_rotations(0, 3, 0), "dim: expected a whole number >= 1, got 0"),
        (lambda: information_kept("blur", torch.eye(2)), "reference: expected GaussianNoise or a LinearTransform"),
        (lambda: information_kept(pixelate(2, 2), torch.eye(2)), r"covariance: expected a symmetric matrix \[4, 4\]"),
        (lambda: information_kept(pixelate(2, 2), -torch.eye(4)), "covariance: expected eigenvalues >= 0, got -1.0"),
    ]:
        with pytest.raises(InputError, match=message):
            make()
