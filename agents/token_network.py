"""The network of a generation policy for tokens: a state and its step in, a guess of every token out."""

import torch
from torch import Tensor, nn

from ..envs.errors import InputError, whole_number
from ..envs.spaces import Continuous, Tokens
from .precision import HiddenLinear

__all__ = ["TokenNetwork"]


class TokenNetwork(nn.Module):
    """Residual multilayer perceptron over the sum of an embedding of each position's symbol and one of the step.

    Each position has embeddings of its own, the mask's included: the sum is what a linear layer makes of the one-hot
    state. The last layer starts at zero, so that an untrained network guesses all tokens alike. Made for short
    sequences; its parameters grow with length × vocabulary × width.

    Args:
        space: the token space.
        steps: number of steps T of the reference.
        width: hidden width, >= 1.
        depth: number of hidden layers, >= 1.
        outputs: numbers for each position, >= 1; by default the vocabulary.
        context_space: the space of contexts, which are embedded and added as well; None without any.

    Raises:
        InputError: for a space that is not of tokens, and sizes that are no such whole numbers.

    Example:
        >>> network = TokenNetwork(Tokens(length=3, vocabulary=4), steps=3, width=8)
        >>> state = torch.tensor([[4, 0, 4], [1, 2, 4]])  # 4 is the mask
        >>> network(state, torch.tensor([1, 2])).shape
        torch.Size([2, 3, 4])
        >>> network(state, 0).abs().max().item()  # untrained
        0.0
    """

    offset: Tensor

    def __init__(
        self,
        space: Tokens,
        steps: int,
        *,
        width: int = 128,
        depth: int = 2,
        outputs: int | None = None,
        context_space: Continuous | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(space, Tokens):
            raise InputError(f"space: expected a space of Tokens, got {space!r}")
        for name, value in (("steps", steps), ("width", width), ("depth", depth), ("outputs", outputs or 1)):
            whole_number(name, value, least=1)
        symbols = space.vocabulary + 1
        self.outputs = space.vocabulary if outputs is None else outputs
        self.space = space
        self.embed_symbols = nn.EmbeddingBag(space.length * symbols, width, mode="sum")
        self.embed_step = nn.Embedding(steps, width)
        self.embed_context = None
        if context_space is not None:
            self.embed_context = nn.Sequential(nn.Linear(context_space.dim, width), nn.GELU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(HiddenLinear(width, width) for _ in range(depth))
        self.logits = nn.Linear(width, space.length * self.outputs)
        # Their sum is of order one, however long the sequence.
        for embedding in (self.embed_symbols.weight, self.embed_step.weight):
            nn.init.normal_(embedding, std=(space.length + 1) ** -0.5)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        offset = torch.arange(space.length) * symbols
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, state: Tensor, k: int | Tensor, context: Tensor | None = None) -> Tensor:
        """Logits `[..., length, vocabulary]` of the tokens of x_{k+1}, from x_k `[..., length]` at steps k `[...]`.

        With `outputs`, as many numbers for each position in place of the vocabulary. With a context space, contexts
        `[..., c]` are expected beside the states.
        """
        step = k.to(state.device) if isinstance(k, Tensor) else torch.full((), k, device=state.device)
        # Summed as they are looked up: laid out, the vectors of all positions would be most of the memory and time.
        symbols = self.embed_symbols((state + self.offset).reshape(-1, self.space.length))  # [n, width]
        hidden = symbols.reshape(*state.shape[:-1], -1) + self.embed_step(step)  # [..., width]
        if self.embed_context is not None:
            hidden = hidden + self.embed_context(context)
        for layer in self.layers:
            hidden = hidden + nn.functional.gelu(layer(hidden))
        return self.logits(hidden).unflatten(-1, (self.space.length, self.outputs))
