r"""Maximum likelihood on random levels: what a policy learns of one destroyed state of each sample.

The negative likelihood bound is, but for terms without parameters, a sum over T steps. Drawing one step k of law w
and weighing it by its inverse has the sum as its mean, whatever the law; for the uniform law that is the T-fold:

    loss = −E_x E_{k ~ w} E_{x_{k+1}, x_k | x} [ log p→(x_{k+1} | x_k) / w_k ],        w_k = 1/T for most

x_{k+1} is drawn from x in one go and x_k by one step: an iteration passes one state of each sample, not T, through the
network. Where it is closed, the mean over the x_{k+1} that x_k may have come from takes the place of the one drawn:
under random masking, an iteration learns from all masked positions; under Gaussian noise, what is left is the closed
Gaussian divergence. A deterministic transform has no densities, and then the loss is no likelihood: it is the summed
error of the guess, ½ ‖x̂_T − x_T‖² in place of −log p→. Masked states may be drawn under another law of orders than the
reference's, and are then weighted for it (`proposal`). Compare `MaximumLikelihood`, which takes whole
paths: the same loss, with more of each sample in an iteration.
Sources: arXiv 2605.30553; arXiv 2107.03006; arXiv 2110.02037; arXiv 2006.11239; arXiv 2208.09392.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule

from ...agents.denoising_agent import DenoisingAgent
from ...agents.policies import Policies
from ...agents.references.reference import Reference
from ...envs.channels.finite import probabilities
from ...envs.errors import InputError
from ..ranks import ALONE, Ranks
from .path_objective import PathObjective
from .proposal import check_proposal, proposed_pair

__all__ = ["RandomLevel", "destroyed_pair", "draw_steps", "random_level_loss", "random_level_losses"]


class RandomLevel(LossModule):
    """Negative likelihood bound of samples, by one random level of each (module docstring).

    It takes the place of `JointLoss` where destruction has nothing to learn, and has its out keys.

    Args:
        agent: an agent that learns from levels.
        ranks: processes whose samples a loss is of.
        proposal: under which masked states are drawn, and weighted for it; by default the agent's own reference.

    In keys: `state` `[B, T'+1, length]`, of which the last is the sample; the others are not read. A conditional agent
    reads `context` `[B, c]`.

    Out keys: `loss_generation`; `loss_destruction`, `loss_log_z` and `loss_flow`, which are zero; and `log_ratio`
    `[B]`, of which the mean is `loss_generation`.

    Raises:
        InputError: for an agent that learns from whole paths only, and for a proposal that does not fit its reference.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_token_agent
        >>> from ebbflow.envs import Tokens
        >>> config = AgentConfig(reference="mask_last", width=8)
        >>> agent = build_token_agent(Tokens(length=3, vocabulary=2), config=config)
        >>> losses = RandomLevel(agent)(TensorDict({"state": torch.tensor([[[0, 1, 1]]])}, batch_size=[1]))
        >>> round(losses["loss_generation"].item(), 4)  # untrained: 3 log 2
        2.0794
    """

    agent: DenoisingAgent
    agent_params: TensorDictParams
    target_agent_params: TensorDictParams

    in_keys: ClassVar[list[str]] = ["state"]
    out_keys: ClassVar[list[str]] = ["loss_generation", "loss_destruction", "loss_log_z", "loss_flow", "log_ratio"]

    # What `JointLoss` tells the trainer of its objectives.
    objectives: ClassVar[dict[str, PathObjective]] = {}
    use_targets: ClassVar[bool] = False
    needs_log_density: ClassVar[bool] = False
    follows_paths: ClassVar[bool] = False
    on_policy_share: ClassVar[float] = 0.0

    def __init__(self, agent: Policies, ranks: Ranks = ALONE, *, proposal: Reference | None = None) -> None:
        super().__init__()
        self.ranks = ranks
        self.proposal = proposal
        if not agent.trains_levels:
            raise InputError(
                "objective: random_level needs an agent that guesses the sample, as one for tokens does; expected "
                "maximum_likelihood"
            )
        if proposal is not None:
            check_proposal(agent.destruction, proposal)
        self.convert_to_functional(agent, "agent", create_target_params=False)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Loss of a batch of samples (class docstring)."""
        with self.agent_params.to_module(self.agent):
            context = tensordict.get("context", None)
            agent = self.agent if context is None else self.agent.given(context)
            loss = random_level_losses(agent, tensordict["state"][:, -1], proposal=self.proposal)
        (everything,) = self.ranks.gather_rows([loss], even=True)
        zero = torch.zeros_like(loss[:1].sum())
        losses = {name: zero for name in self.out_keys[1:-1]}
        return TensorDict({"loss_generation": everything.mean(), **losses, "log_ratio": loss.detach()}, batch_size=[])


def random_level_loss(
    agent: DenoisingAgent,
    x: Tensor,
    *,
    level_law: Sequence[float] | Tensor | None = None,
    proposal: Reference | None = None,
) -> Tensor:
    """Scalar loss, in nats per sample where there are densities, of which one backward is enough; module docstring.

    Args:
        agent: whose generation policy learns.
        x: samples, `[n, *space]`.
        level_law: probabilities w of the steps, `[T]`, all > 0; by default those of the reference, `level_law`, or else
            uniform. They change the variance only.
        proposal: a masking reference under which states are drawn in place of the agent's own, another order of
            masking. They are weighted by the ratio of the two laws, so that it, too, changes the variance only.

    Raises:
        InputError: for anything but states of the space, for a law that has a zero or another number of steps, and for
            a proposal that is not known to mask all that the agent's reference can, with a known probability.

    Example:
        >>> from ebbflow.agents import TokenNetwork
        >>> from ebbflow.agents.references.tokens import mask_last
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=3, vocabulary=2)
        >>> agent = DenoisingAgent(mask_last(space), TokenNetwork(space, steps=3, width=8))
        >>> loss = random_level_loss(agent, torch.tensor([[0, 1, 1], [1, 1, 0]]))
        >>> loss.backward()
        >>> round(loss.item(), 4)  # untrained: 3 log 2
        2.0794
    """
    agent.space.check("x", x)
    return random_level_losses(agent, x, level_law=level_law, proposal=proposal).mean()


def random_level_losses(
    agent: DenoisingAgent,
    x: Tensor,
    *,
    level_law: Sequence[float] | Tensor | None = None,
    proposal: Reference | None = None,
) -> Tensor:
    """The loss of each sample, `[n]`, of which `random_level_loss` is the mean; samples are not checked.

    Example:
        >>> from ebbflow.agents import AgentConfig, build_token_agent
        >>> from ebbflow.envs import Tokens
        >>> agent = build_token_agent(Tokens(length=1, vocabulary=2), config=AgentConfig(width=8))
        >>> random_level_losses(agent, torch.tensor([[0], [1]]))  # untrained: log 2
        tensor([0.6931, 0.6931], grad_fn=<MulBackward0>)
    """
    k, weight = draw_steps(
        x.shape[:-1], agent.steps, agent.reference.level_law if level_law is None else level_law, x.device
    )
    state, following, ratio = destroyed_pair(agent, x, k, proposal)
    cost = agent.step_cost(x, following, state, k)
    return weight * (cost if ratio is None else ratio * cost)


@torch.no_grad()
def destroyed_pair(
    agent: DenoisingAgent, x: Tensor, k: Tensor, proposal: Reference | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x_k and x_{k+1} of samples `[..., *space]` at steps k `[...]`, and what the pair counts, `[...]`.

    Under the agent's own reference, without a proposal, all count alike: None.
    """
    if proposal is not None:
        return proposed_pair(*check_proposal(agent.reference, proposal), x, k)
    following = agent.reference.sample_level(x, k + 1)
    return agent.reference.sample_step_given(following, x, k), following, None


def draw_steps(
    shape: Sequence[int], steps: int, law: Sequence[float] | Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Steps of this shape, `[n]` or `[n, draws]`, and what each counts: 1 / w_k.

    Each step has the law w, and together they cover it evenly, one from each of as many equally probable parts, in
    random order over the samples and in order over the draws of one: what differs between levels then hardly adds to
    the error of a mean (arXiv 2107.00630, on low-discrepancy times).

    Raises:
        InputError: for a law that has a zero or another number of steps.

    Example:
        >>> k, weight = draw_steps([4], 2, [0.2, 0.8], torch.device("cpu"))
        >>> bool((weight == torch.tensor([5.0, 1.25])[k]).all())
        True
        >>> draw_steps([100], 4, None, torch.device("cpu"))[0].bincount()
        tensor([25, 25, 25, 25])
    """
    if law is None:
        w = torch.full((steps,), 1.0 / steps, dtype=torch.float64)
    else:
        w = probabilities("level_law", law, dims=1)
        if len(w) != steps or not bool((w > 0.0).all()):
            raise InputError(f"level_law: expected {steps} probabilities > 0, got {w.tolist()}")
    n, draws = shape[0], torch.Size(shape[1:]).numel()
    part = torch.rand(draws, n).argsort(-1) + n * torch.arange(draws).unsqueeze(-1)  # [draws, n]
    quantile = (part + torch.rand(part.shape, dtype=torch.float64)) / part.numel()
    k = torch.searchsorted(w.cumsum(0), quantile, right=True).clamp_max(steps - 1).T.reshape(tuple(shape))
    # Drawn by the host, which does not wait until it is there.
    weight = (1.0 / w)[k].to(device, torch.get_default_dtype(), non_blocking=True)
    return k.to(device, non_blocking=True), weight
