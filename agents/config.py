"""Settings of an agent's architecture; nothing here imports torch, so that `--help` stays fast."""

from dataclasses import dataclass, replace

from ..envs.errors import InputError

__all__ = ["AgentConfig"]


@dataclass(frozen=True)
class AgentConfig:
    """Architecture of an agent; the same for every target."""

    reference: str | None = None
    """Reference process, by default bridge, and for tokens mask_one_random. Of real numbers: bridge (from the Dirac
    at 0), variance_exploding or variance_preserving (from a Gaussian); of data also noise_preserving and
    noise_exploding, whose policy guesses the sample, and without likelihoods blur and pixelate (of images) and
    bijection (which destroys nothing). Of tokens: mask_one_random, mask_last, mask_last_or_random,
    mask_learned_order (whose destruction is trained), shuffle_one_token or shuffle_every_token."""
    time_grid: str = "shrinking"
    """Time grid: uniform, or shrinking (shorter steps towards the sample)."""
    time_grid_power: float | None = 2.0
    """Power p of the shrinking grid t = 1 - (1 - k/T)^p. None: chosen by the trainer, after a short search, so that the
    last step is as long as the target is narrow."""
    compression: float | None = 3.0
    """Length, in units of the scale, beyond which steps count logarithmically (u = L asinh(x/L)): for heavy tails.
    None: steps of the state itself, a little better where there are none (3 % of the width on mixtures, 13 % on a
    32-dimensional many-well), and much better in hundreds of dimensions, where some step is always thrown far out."""
    sigma: float | None = None
    """Diffusion rate in state units per square root of time; by default the target's scale."""
    width: int = 128
    """Width of the backbone."""
    depth: int = 2
    """Hidden layers of the backbone."""
    shared_backbone: bool = True
    """One backbone for both policies, or one each."""
    features: tuple[str, ...] = ("raw", "asinh", "fourier")
    """State features: any of raw, asinh, fourier, score (the last costs one gradient call a state)."""
    frequencies: tuple[float, ...] = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
    """Frequencies of the Fourier features, radians per compressed length unit: half-octaves, not tuned to a target."""
    tables: bool = True
    """Add a per-step, per-coordinate table on the features to both heads."""
    gain: bool = True
    """Let each learned mean multiply the state by a learned factor, too: for densities whose width varies from place to
    place, as a funnel's does."""
    reach: float | None = 2.0
    """How far out, in multiples of what the anchors extend to in each coordinate, the mean of a step may lead: a path
    thrown farther decides the mean of the log weights. Of the bridge only, and in its coordinates (see compression).
    None: anywhere, as without anchors."""
    generation_variance: str = "learned"
    """Generation variance: learned, or fixed at the reference's."""
    log_variance_bound: float = 8.0
    """Largest |log(generation variance / reference variance)|."""
    langevin: bool = False
    """Add a bounded Langevin drift to the generation mean (costs one gradient call a state)."""
    destruction_mean: str = "bounded_offset"
    """Destruction mean: reference, multiplicative, bounded_offset or offset."""
    destruction_variance: str = "multiplicative"
    """Destruction variance: reference, multiplicative, log_bounded or free."""
    destruction_mean_bound: float = 3.0
    """Bound C of the destruction mean's correction."""
    destruction_variance_bound: float = 0.9
    """Bound C of the destruction variance's correction."""
    destruction_schedule: str = "fixed"
    """How much of the way each step goes, in each coordinate: fixed by the time grid, or learned together with
    generation, whose reference follows (of the bridge only); with target networks it follows late."""
    forward_looking: bool = False
    """Let the state flow of detailed_balance and sub_trajectory_balance interpolate towards the log density of the
    state (one energy call for each state between the ends of a trajectory)."""

    def variant(self, name: str) -> "AgentConfig":
        """These settings with fixed variance, with learned generation variance only, or adaptive (both learned).

        Raises:
            InputError: for an unknown variant.

        Example:
            >>> AgentConfig().variant("fixed").destruction_mean
            'reference'
        """
        if name == "adaptive":
            return self
        if name not in ("fixed", "generation"):
            raise InputError(f"variant: expected 'fixed', 'generation' or 'adaptive', got {name!r}")
        return replace(
            self,
            generation_variance="fixed" if name == "fixed" else "learned",
            destruction_mean="reference",
            destruction_variance="reference",
            destruction_schedule="fixed",
        )
