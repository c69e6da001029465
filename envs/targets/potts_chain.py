r"""The Potts chain: a density of token sequences whose normalising constant and exact samples are known.

    log R(x) = coupling · Σ_i [x_i = x_{i+1}] + field · Σ_i [x_i = 0]

Neighbours like to be equal, and all like the token 0. With two tokens it is the Ising chain. As the density is a chain,
the sum over all sequences is a product of transfer matrices, and a sample is drawn from the left to the right by what
the rest of the chain adds up to. Source: R. B. Potts, Math. Proc. Cambridge 48 (1952), https://doi.org/10.1017/S0305004100027419.
"""

import math

import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..spaces import Tokens
from ..target import Target

__all__ = ["PottsChain"]

_LENGTH = 6  # of the chain that goes by the name alone


class PottsChain(Target):
    """The Potts chain of any length (module docstring).

    Args:
        length: number of tokens, >= 1.
        vocabulary: number of different tokens, >= 2.
        coupling: nats for each pair of equal neighbours.
        field: nats for each token 0.

    Raises:
        InputError: for sizes that are no such whole numbers, and nats that are not finite.

    Example:
        >>> chain = PottsChain(length=6)
        >>> chain(torch.tensor([[0, 0, 1, 1, 1, 2]]))  # three equal pairs, two tokens 0
        tensor([4.])
        >>> values = chain(chain.space.all_states()).double()
        >>> len(values), round(values.logsumexp(0).item(), 5) == round(chain.log_z, 5)
        (729, True)
        >>> chain.sample(5).shape
        torch.Size([5, 6])
    """

    zero: Tensor

    def __init__(self, length: int = _LENGTH, vocabulary: int = 3, coupling: float = 1.0, field: float = 0.5) -> None:
        whole_number("length", length, least=1)
        whole_number("vocabulary", vocabulary, least=2)
        for name, nats in (("coupling", coupling), ("field", field)):
            if not math.isfinite(nats):
                raise InputError(f"{name}: expected a finite number (nats), got {nats!r}")
        alone = torch.zeros(vocabulary, dtype=torch.float64)
        alone[0] = field
        pair = coupling * torch.eye(vocabulary, dtype=torch.float64)
        rest = [torch.zeros_like(alone)]  # log of what all that follows a token adds up to, from the last token on
        for _ in range(length - 1):
            rest.append((pair + alone + rest[-1]).logsumexp(-1))
        log_z = float((alone + rest[-1]).logsumexp(0))
        super().__init__(
            Tokens(length, vocabulary), log_z=log_z, name="potts" if length == _LENGTH else f"potts-{length}"
        )
        self.coupling, self.field = float(coupling), float(field)
        # Plain attributes, not buffers: they must stay float64 whatever dtype the target is moved to.
        self._first = (alone + rest[-1]).softmax(0)
        self._next = [(pair + alone + after).softmax(-1) for after in reversed(rest[:-1])]
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # whose dtype the values have

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised log density, int64 `[..., length] -> [...]`."""
        pairs = (x[..., 1:] == x[..., :-1]).sum(-1).to(self.zero)
        return self.coupling * pairs + self.field * (x == 0).sum(-1).to(self.zero)

    def sample(self, n: int) -> Tensor:
        """`n` independent exact samples, int64 `[n, length]`."""
        if n == 0:
            return torch.zeros((0, self.space.length), dtype=torch.int64, device=self.zero.device)
        tokens = [torch.multinomial(self._first.to(self.zero.device), n, replacement=True)]
        for law in self._next:
            tokens.append(torch.multinomial(law.to(self.zero.device)[tokens[-1]], 1).squeeze(-1))
        return torch.stack(tokens, dim=-1)
