r"""The state flow log F(x_k, k): the unnormalised mass that passes through a state, for objectives of partial paths.

Where both policies are exact, F(x_k, k) = Z · p_k(x_k) with p_k the law of x_k. With p^ref_k the law of x_k under the
reference generation, N(0, s_k²·I), and a network n(x, k) that starts at zero,

    log F(x_k, k) = log Z + log p^ref_k(x_k) + n(x_k, k)                                         learned
    log F(x_k, k) = (1 − t_k)·(log Z + log p^ref_k(x_k)) + t_k·log R(x_k) + n(x_k, k)            forward-looking

for 0 < k < T; log F is log Z + log p_0 at 0 and log R at T. The untrained policies are the reference, whose flow the
learned form starts from exactly. Sources: arXiv 2310.02679 and arXiv 2402.05098 (interpolation of the log reward and
the reference's log density), after Pan et al., ICML 2023 (forward-looking flows). Adding log Z, so that a target's
constant is not learned twice, and the reference's density to the plain form is this project's choice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .actors import gaussian_log_prob
from .backbone import Backbone
from .references.gaussian import GaussianReference

__all__ = ["StateFlow"]


class StateFlow(nn.Module):
    """log F of the states between the ends of a trajectory, by a network of its own (module docstring).

    It has a backbone of its own, so that what trains the flow does not reach the policies.

    Args:
        reference: the reference process.
        inputs: number of features of a whole state (dim × features per coordinate).
        width, depth: of its backbone.
        forward_looking: interpolate to the log density of the state, which `forward` then needs.
        contexts: number of coordinates of a context; 0 for an unconditional agent.

    Attributes:
        forward_looking: whether it does; never with a single step, where no state lies between the ends.

    Example:
        >>> from ebbflow.agents import TimeGrid
        >>> from ebbflow.agents.references import brownian_bridge
        >>> flow = StateFlow(brownian_bridge(TimeGrid.uniform(2), sigma=2.0), inputs=1, width=8)
        >>> states = torch.zeros(5, 3, 1)  # 5 trajectories of 3 states
        >>> flow(states, states.unsqueeze(-1), log_z=torch.tensor(1.0))[0]  # 1 + log N(0; 0, 2²·½)
        tensor([-0.2655], grad_fn=<SelectBackward0>)
    """

    log_variance: Tensor
    times: Tensor

    def __init__(
        self,
        reference: GaussianReference,
        inputs: int,
        *,
        width: int = 64,
        depth: int = 2,
        forward_looking: bool = False,
        contexts: int = 0,
    ) -> None:
        super().__init__()
        self.forward_looking = forward_looking and reference.steps > 1  # with one step, no state lies between
        self.backbone = Backbone(inputs, reference.times, width, depth, contexts)
        self.readout = nn.Linear(width, 1)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        inner: Sequence[float] = _marginal_variances(reference)[1:-1]
        self.register_buffer("log_variance", torch.tensor(inner).log().unsqueeze(-1), persistent=False)  # [T-1, 1]
        self.register_buffer("times", torch.tensor(reference.times[1:-1]), persistent=False)  # [T-1]

    def forward(
        self,
        states: Tensor,
        features: Tensor,
        log_z: Tensor,
        log_density: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """log F of x_1 … x_{T−1}, `[B, T-1]`.

        Args:
            states: whole trajectories, `[B, T+1, dim]`.
            features: their features, `[B, T+1, dim, F]`.
            log_z: log Z, broadcastable to `[B]`.
            log_density: log R of x_1 … x_{T−1}, `[B, T-1]`, where the flow is forward-looking.
            context: of a conditional agent, `[B, c]`; log Z is then log Z(c).
        """
        x = states[:, 1:-1]
        embedding = self.backbone.context_embedding(None if context is None else context.unsqueeze(1))
        hidden = self.backbone(features[:, 1:-1], slice(1, -1), None, embedding)
        learned = self.readout(hidden).squeeze(-1)  # [B, T-1]
        start = log_z.unsqueeze(-1) + gaussian_log_prob(x, torch.zeros_like(x), self.log_variance.expand_as(x))
        if log_density is None:
            return start + learned
        return (1.0 - self.times) * start + self.times * log_density + learned


def _marginal_variances(reference: GaussianReference) -> list[float]:
    """Variance of each coordinate of x_0 … x_T under the reference generation."""
    variances = [reference.initial_std**2]
    for factor, variance in zip(reference.generation_factor, reference.generation_variance, strict=True):
        variances.append(factor**2 * variances[-1] + variance)
    return variances
