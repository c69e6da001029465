r"""Masked states drawn under another law of orders, a proposal q, and what each counts under the reference's own, p.

    E_p [f(x_{k+1}, x_k) | x_T] = E_q [w f(x_{k+1}, x_k) | x_T],

    w = p(x_{k+1} | x_T) p(x_k | x_{k+1}) / (q(x_{k+1} | x_T) q(x_k | x_{k+1}))      by the masked set, or
    w = Π_{j >= k} p(x_j | x_{j+1}) / q(x_j | x_{j+1})   by the order in which it was masked

The loss on levels and the likelihood bound are weighted alike, and both keep their means, whatever q is. The first is
the mean of the second over the orders of the same set, and varies less; it needs the closed level laws of both. The
second serves a learned order of any length, and multiplies T ratios at worst. q must be able to mask all that p can:
else weights are infinite where q never looks. Importance sampling; of orders, arXiv 2605.30553.
"""

import torch
from torch import Tensor

from ...agents.references.reference import Reference
from ...agents.references.tokens.masking import Masking
from ...envs.errors import InputError

__all__ = ["check_proposal", "order_weights", "pair_weights", "proposed_pair"]


def check_proposal(reference: Reference, proposal: Reference) -> tuple[Masking, Masking]:
    """Both, if levels of the reference may be drawn under the proposal.

    Raises:
        InputError: for what is no masking reference, and so has no law of masked sets; for another space; and for a
            proposal that never masks what the reference may.

    Example:
        >>> from ebbflow.agents.references.tokens import MaskOneRandom, mask_last
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=3, vocabulary=2)
        >>> _ = check_proposal(mask_last(space), MaskOneRandom(space))
        >>> check_proposal(MaskOneRandom(space), mask_last(space))
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: proposal: expected one that can mask all that MaskOneRandom can, got MaskInOrder
        of 1 order: weights would be infinite; mix it with MaskOneRandom, as MaskMixture does
    """
    if not isinstance(reference, Masking):
        raise InputError(
            f"proposal: expected none for {type(reference).__name__}, for a law of orders is one of masking references"
        )
    if not isinstance(proposal, Masking):
        raise InputError(
            "proposal: expected a masking reference, whose probability of an order or of a masked set can be computed, "
            f"got {type(proposal).__name__}"
        )
    if proposal.space != reference.space:
        raise InputError(f"proposal: expected one for {reference.space}, got one for {proposal.space}")
    if not _covers(proposal.orders, reference.orders, reference.space.length):
        assert proposal.orders is not None
        count = len(proposal.orders)
        raise InputError(
            f"proposal: expected one that can mask all that {type(reference).__name__} can, got "
            f"{type(proposal).__name__} of {count} order{'s' * (count > 1)}: weights would be infinite; mix it with "
            "MaskOneRandom, as MaskMixture does"
        )
    return reference, proposal


@torch.no_grad()
def proposed_pair(reference: Masking, proposal: Masking, sample: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_k and x_{k+1}, `[..., length]`, drawn under the proposal given x_T, and their weights w `[...]`.

    What the reference never masks has the weight 0, and in its place stands a pair that it may.

    Args:
        reference, proposal: p and q, checked by `check_proposal`.
        sample: x_T, `[..., length]`.
        k: steps, `[...]`.

    Example:
        >>> from ebbflow.agents.references.tokens import MaskMixture, MaskOneRandom, mask_last
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=8, vocabulary=2)
        >>> uniform = MaskOneRandom(space)
        >>> raster = MaskMixture([uniform, mask_last(space)], [0.5, 0.5])
        >>> x, k = torch.ones(10_000, 8, dtype=torch.int64), torch.full((10_000,), 4)
        >>> state, following, weight = proposed_pair(uniform, raster, x, k)
        >>> bool((weight <= 2.0 + 1e-4).all()), bool((weight.mean() - 1.0).abs() < 0.1)
        (True, True)
    """
    if reference.closed_levels and proposal.closed_levels:
        following = proposal.sample_level(sample, k + 1)
        state = proposal.sample_step_given(following, sample, k)
        weight = pair_weights(reference, proposal, state, following, sample, k)
    else:
        state = following = sample
        log_weight = torch.zeros(k.shape, device=sample.device)
        for j in reversed(range(reference.steps)):
            under_way = k <= j
            taken = proposal.sample_step(state, j)
            ratio = reference.log_prob_step(taken, state, j) - proposal.log_prob_step(taken, state, j)
            log_weight = log_weight + torch.where(under_way, ratio, 0.0)
            following = torch.where(under_way.unsqueeze(-1), state, following)
            state = torch.where(under_way.unsqueeze(-1), taken, state)
        weight = log_weight.exp()
    if bool((weight == 0.0).any()):  # its cost may be infinite, and 0 · ∞ is no number
        counts = (weight > 0.0).unsqueeze(-1)
        following = torch.where(counts, following, reference.sample_level(sample, k + 1))
        state = torch.where(counts, state, reference.sample_step(following, k))
    return state, following, weight


@torch.no_grad()
def pair_weights(
    reference: Masking, proposal: Masking, state: Tensor, following: Tensor, sample: Tensor, k: int | Tensor
) -> Tensor:
    """w `[...]` of x_k and x_{k+1} by their masked sets, of references whose level laws are closed."""
    of, by = (
        law.log_prob_level(following, sample, k + 1) + law.log_prob_step(state, following, k)
        for law in (reference, proposal)
    )
    return (of - by).exp()


@torch.no_grad()
def order_weights(reference: Masking, proposal: Masking, states: Tensor) -> Tensor:
    """p(τ | x_T) / q(τ | x_T) `[n]` of whole paths `[n, T+1, length]` that the proposal has destroyed.

    It is the `weight` of rows of `JointLoss`, and weighs a log-ratio D for the bound.

    Example:
        >>> from ebbflow.agents import DenoisingAgent, TokenNetwork
        >>> from ebbflow.agents.references.tokens import MaskInOrder, MaskOneRandom
        >>> from ebbflow.envs import Tokens
        >>> space = Tokens(length=2, vocabulary=2)
        >>> uniform, network = MaskOneRandom(space), TokenNetwork(space, steps=2, width=8)
        >>> paths = DenoisingAgent(uniform, network).destroy(torch.tensor([[0, 1]] * 100))
        >>> order_weights(MaskInOrder(space, [1, 0]), uniform, paths["state"]).unique()  # of the two orders it has one
        tensor([0., 2.])
    """
    check_proposal(reference, proposal)
    k = torch.arange(reference.steps, device=states.device).expand(len(states), -1)
    before, after = states[:, :-1], states[:, 1:]
    return (reference.log_prob_step(before, after, k) - proposal.log_prob_step(before, after, k)).sum(-1).exp()


def _covers(proposal: Tensor | None, reference: Tensor | None, length: int) -> bool:
    """Whether orders `[m, length]` (None: all there are) hold each masked set with each next position of others."""
    if proposal is None:
        return True
    covered = _pairs(proposal)
    return len(covered) == length * 2 ** (length - 1) if reference is None else _pairs(reference) <= covered


def _pairs(orders: Tensor) -> set[tuple[int, int]]:
    """Sets of positions that are left, as bits, and the one of them that is masked next."""
    pairs = set()
    for order in orders.tolist():
        left = 0
        for position in order:
            left |= 1 << position
            pairs.add((left, position))
    return pairs
