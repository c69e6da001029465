r"""Mask one token a step in an order that is learned: which one, a network says, that reads the present state.

    p←(x_k | x_{k+1}) = softmax over the k + 1 tokens that are left of a_i + s_φ(x_{k+1})_i,  i the position masked
    P(i | x_k)        = softmax over the T − k masks of g_θ(x_k)_i                             i the position written

A table a holds what is common to all samples. It has length numbers, each of which hears from every path, so that it
learns much faster than the network, from which it leaves what differs from sample to sample.

Whatever is learned, all is masked after T = length steps: the fully destroyed law is kept. The guess of generation has
one number more for each position than the vocabulary, the score g_θ. With scores of zero, as an untrained network has
them, both laws are those of `MaskOneRandom`. Both policies together are trained to raise the likelihood bound,

    log p(x) >= E [Σ_k log P(i_k | x_k) + log guess(token) − log p←(x_k | x_{k+1})],

generation by maximum likelihood on the paths of destruction, and destruction by `VarGrad` among the paths of a sample.
Learning may start from a stated order instead of from all alike: then −β · (the step at which it writes i) is added to
the scores of generation, and +β · (that step) to those of destruction, for a sharpness β.
Sources: arXiv 2605.30553 (learned destruction); arXiv 2503.05979 (learned orders of autoregression); arXiv 2506.01541.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ....envs.errors import InputError
from ....envs.spaces import Tokens
from ...token_network import TokenNetwork
from .mask_in_order import check_order
from .masking import Masking

__all__ = ["MaskLearnedOrder"]

_LISTED = 12  # positions of which all sets are listed, for the laws of levels


class MaskLearnedOrder(Masking, nn.Module):
    """Masks the token that a network chooses (module docstring).

    Args:
        space: the token space.
        scores: s_φ, `[..., length, 1]` of a state `[..., length]` and a step k `[...]`: a module, whose parameters are
            those of destruction, or any function. By default a `TokenNetwork`.
        start: the order of generation to start from, all positions; by default none.
        sharpness: β > 0 in nats a step: small for a loose start, from which much can be learned, large for a firm one.
        width, depth: of the default network.

    Attributes:
        table: the scores a that all samples have in common, `[length]`; of optimisers a table (`table_rate`).

    Raises:
        InputError: for a space that is not of tokens, an order that is none, a sharpness out of range, for scores that
            cannot be called or are of another shape, and for steps and levels out of range.

    Example:
        >>> from ebbflow.envs import Tokens
        >>> from ebbflow.agents import DenoisingAgent
        >>> space = Tokens(length=3, vocabulary=5)
        >>> reference = MaskLearnedOrder(space, width=8)
        >>> agent = DenoisingAgent(reference, TokenNetwork(space, steps=3, width=8, outputs=6))
        >>> paths = agent.destroy(torch.tensor([[4, 0, 1], [2, 2, 2]]))
        >>> agent.path_log_probs(paths).destruction.exp()  # untrained: 1/1 · 1/2 · 1/3
        tensor([[1.0000, 0.5000, 0.3333],
                [1.0000, 0.5000, 0.3333]], grad_fn=<ExpBackward0>)
        >>> sorted(name for name, group in agent.parameter_groups().items() if group)
        ['destruction', 'generation', 'log_z']
    """

    learned: ClassVar[bool] = True
    closed_levels: ClassVar[bool] = False
    start: Tensor

    def __init__(
        self,
        space: Tokens,
        scores: Callable[[Tensor, int | Tensor], Tensor] | None = None,
        *,
        start: Sequence[int] | Tensor | None = None,
        sharpness: float = 1.0,
        width: int = 128,
        depth: int = 2,
    ) -> None:
        nn.Module.__init__(self)
        Masking.__init__(self, space)
        if not 0.0 < sharpness < float("inf"):
            raise InputError(f"sharpness: expected a finite number > 0 (nats), got {sharpness!r}")
        rank = torch.zeros(space.length) if start is None else check_order(start, space.length).argsort()
        self.register_buffer("start", sharpness * rank.to(torch.get_default_dtype()), persistent=False)
        if scores is not None and not callable(scores):
            raise InputError(f"scores: expected a module or function of states and steps, got {scores!r}")
        self.table = nn.Parameter(torch.zeros(space.length))
        self.scores = scores or TokenNetwork(space, self.steps, width=width, depth=depth, outputs=1)

    # Destruction ----------------------------------------------------------------------------------------------------

    def position_destroyed(self, following: Tensor, k: int | Tensor) -> Tensor:
        """log p←(position i is masked | x_{k+1} = `following`), `[..., length]`; −inf where a mask is already."""
        self._step(k, following)
        scores = self.scores(following, k)
        if scores.shape != (*following.shape, 1):
            raise InputError(f"scores: expected {[*following.shape, 1]}, got {list(scores.shape)}")
        return _softmax_over(following != self.space.mask, self.start + self.table + scores.squeeze(-1))

    def sample_step(self, following: Tensor, k: int | Tensor) -> Tensor:
        """x_k, `[..., length]`: one of the tokens that are left is masked, drawn by its score (Gumbel's maximum)."""
        uniform = torch.rand(following.shape, device=following.device).clamp_min(1e-30)
        position = (self.position_destroyed(following, k) - (-uniform.log()).log()).argmax(-1, keepdim=True)
        return following.scatter(-1, position, self.space.mask)

    def log_prob_step(self, state: Tensor, following: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_{k+1}) `[...]`, for x_{k+1} with k + 1 tokens left."""
        left = self._step(k, state) + 1
        here = state != following
        one_less = (self.tokens_left(following) == left) & (self.tokens_left(state) == left - 1)
        chosen = torch.where(here, self.position_destroyed(following, k), 0.0).sum(-1)
        return torch.where(self.consistent(state, following) & one_less, chosen, -torch.inf)

    def kept(self, sample: Tensor, k: int | Tensor) -> Tensor:
        """Which tokens T − k steps leave, bool `[..., length]`; they are walked through."""
        level = self._level(k, sample)
        state = sample
        for step in reversed(range(self.steps)):
            state = torch.where((level <= step).unsqueeze(-1), self.sample_step(state, step), state)
        return state != self.space.mask

    def log_prob_level(self, state: Tensor, sample: Tensor, k: int | Tensor) -> Tensor:
        """log p←(x_k | x_T) `[...]`: the sum over all orders, by a recursion over sets of positions.

        Raises:
            InputError: for more than 12 positions.
        """
        if self.space.length > _LISTED:
            raise InputError(
                f"level: the law of learned orders is a sum over 2^length sets, expected at most {_LISTED} "
                f"positions, got {self.space.length}"
            )
        left = self._level(k, state)
        bits = 2 ** torch.arange(self.space.length, device=sample.device)
        sets = torch.arange(2**self.space.length, device=sample.device)
        holds = (sets.unsqueeze(-1) & bits) > 0  # [sets, length]
        sizes = holds.sum(-1)
        kept = torch.where(holds, sample.unsqueeze(-2), self.space.mask)  # [..., sets, length]
        chosen = self.position_destroyed(kept, (sizes - 1).clamp_min(0).expand(kept.shape[:-1])).exp()
        law = torch.zeros_like(chosen[..., 0])  # of each set, at the level of its size
        law[..., -1] = 1.0
        for size in reversed(range(1, self.space.length + 1)):
            for i, bit in enumerate(bits.tolist()):
                larger = sets[(sizes == size) & holds[:, i]]
                law = law.index_add(-1, larger - bit, law[..., larger] * chosen[..., larger, i])
        which = ((state != self.space.mask) * bits).sum(-1)
        which, law = torch.broadcast_tensors(which.unsqueeze(-1), law)
        found = law.gather(-1, which[..., :1]).squeeze(-1).log()
        possible = self.consistent(state, sample) & (self.tokens_left(state) == left)
        return torch.where(possible, found, -torch.inf)

    # Generation -----------------------------------------------------------------------------------------------------

    def guess_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """`[..., length, vocabulary + 1]`: logits of tokens, and the score of the position last."""
        return (*shape, self.space.vocabulary + 1)

    def position_log_prob(self, state: Tensor, k: int | Tensor) -> Tensor:
        """What scores of zero say, `[..., length]`: −log(T − k) at masks without a `start`, −inf elsewhere."""
        self._step(k, state)
        return _softmax_over(state == self.space.mask, (-self.start).expand(state.shape))

    def joint_log_prob(self, logits: Tensor, state: Tensor, k: int | Tensor) -> Tensor:
        """log P(i | x_k) + log guess_i(token), `[..., length, vocabulary]`, of a guess with scores of positions."""
        self._step(k, state)
        positions = _softmax_over(state == self.space.mask, logits[..., -1] - self.start)
        return positions.unsqueeze(-1) + logits[..., :-1].log_softmax(-1)


def _softmax_over(allowed: Tensor, scores: Tensor) -> Tensor:
    """Log softmax over the positions that are allowed, `[..., length]`; −inf at the others, also where none is.

    Example:
        >>> _softmax_over(torch.tensor([True, False, True]), torch.zeros(3)).exp()
        tensor([0.5000, 0.0000, 0.5000])
    """
    allowed, scores = torch.broadcast_tensors(allowed, scores)
    lowest = torch.finfo(scores.dtype).min  # and not −inf, whose softmax over nothing has no gradient
    return torch.where(allowed, scores.masked_fill(~allowed, lowest).log_softmax(-1), -torch.inf)
