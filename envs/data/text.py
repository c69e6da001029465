"""Text as data: windows of a fixed number of characters, each character a token of the text's own alphabet."""

from collections.abc import Sequence
from typing import Any, Self

import numpy
import torch
from torch import Tensor

from ..errors import InputError, whole_number
from ..spaces import Tokens
from .dataset import Dataset

__all__ = ["TextDataset"]

BLOCK = 64
UNKNOWN = "□"


class TextDataset(Dataset):
    """Windows of a text; best made by `TextDataset.of`.

    Args:
        train_rows: windows to learn from, int64 `[n, length]`.
        held_out: windows to be judged on, int64 `[m, length]`.
        characters: the character of each token, at least two.
        settings: those of `Dataset`.

    Example:
        >>> text = TextDataset.of("to be or not to be, that is the question", length=5)
        >>> text.space, text.characters
        (Tokens(length=5, vocabulary=14), ' ,abehinoqrstu')
    """

    def __init__(self, train_rows: Tensor, held_out: Tensor, *, characters: str, **settings: Any) -> None:
        super().__init__(train_rows, held_out, space=Tokens(train_rows.shape[1], len(characters)), **settings)
        self.characters = characters

    @classmethod
    def of(cls, text: str, *, length: int = 32, held_out: float = 0.1, seed: int = 0, name: str = "text") -> Self:
        """The data set of the windows of a text.

        The text is cut into windows of `length` that do not overlap (a rest at the end is left out); 64 neighbouring
        windows stay on one side of the split, so that most of what is held out does not continue what is learned from.
        The alphabet is that of the whole text, in the order of Unicode.

        Args:
            text: at least two windows, of at least two different characters.
            length: characters of a window, >= 1.
            held_out: share to hold out.
            seed: which blocks of windows are held out.
            name: what messages and reports call it.

        Raises:
            InputError: for a shorter text, a text of one character, and arguments out of range.
        """
        whole_number("length", length, least=1)
        if len(text) < 2 * length:
            raise InputError(f"{name}: expected at least 2 windows of {length} characters, got {len(text)} characters")
        code_points = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=numpy.uint32)
        alphabet, tokens = numpy.unique(code_points, return_inverse=True)
        if len(alphabet) < 2:
            raise InputError(f"{name}: expected at least 2 different characters, got {text[0]!r} alone")
        windows = torch.from_numpy(tokens[: len(tokens) // length * length].astype(numpy.int64)).reshape(-1, length)
        characters = "".join(map(chr, alphabet.tolist()))
        return cls.split(windows, held_out=held_out, seed=seed, block=BLOCK, characters=characters, name=name)

    def decode_tokens(self, tokens: Tensor) -> list[str]:
        """The texts of sequences of tokens, `[n, any length]`; the mask is written as □.

        Raises:
            InputError: for a tensor of another shape or dtype, or a token that there is not.

        Example:
            >>> text = TextDataset.of("abcabcabc", length=3)
            >>> text.decode_tokens(torch.tensor([[2, 0, 1], [0, text.space.mask, 2]]))
            ['cab', 'a□c']
        """
        if not isinstance(tokens, Tensor) or tokens.ndim != 2:
            got = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise InputError(f"tokens: expected a tensor [n, length], got {got}")
        if tokens.shape[1]:
            Tokens(tokens.shape[1], self.space.vocabulary).check("tokens", tokens, masked=True)
        symbols: Sequence[str] = self.characters + UNKNOWN
        return ["".join(symbols[token] for token in row) for row in tokens.tolist()]
