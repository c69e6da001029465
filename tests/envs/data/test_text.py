"""Text as windows of characters: nothing lost, nothing on both sides."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebbflow.envs import InputError, TextDataset


@given(st.text(min_size=30), st.integers(1, 15), st.integers(0, 5))
def test_windows_are_the_text(text, length, seed):
    if len(set(text)) < 2:
        return
    data = TextDataset.of(text, length=length, seed=seed)
    windows = data.decode_tokens(data.train_rows) + data.decode_tokens(data.held_out)
    expected = [text[i : i + length] for i in range(0, len(text) - length + 1, length)]
    assert sorted(windows) == sorted(expected)
    assert data.characters == "".join(sorted(set(text)))


def test_neighbours_stay_on_one_side():
    text = "".join(chr(0x4E00 + i) for i in range(4 * 640))
    data = TextDataset.of(text, length=4, held_out=0.3)
    blocks = {row // 4 // 64 for row in data.held_out[:, 0].tolist()}
    assert len(blocks) == 3 and len(data.held_out) == 3 * 64
    assert not blocks & {row // 4 // 64 for row in data.train_rows[:, 0].tolist()}


@pytest.mark.parametrize(
    ("text", "length", "message"),
    [
        ("", 32, "text: expected at least 2 windows of 32 characters, got 0 characters"),
        ("abc", 2, "text: expected at least 2 windows of 2 characters, got 3 characters"),
        ("aaaa", 2, "text: expected at least 2 different characters, got 'a' alone"),
        ("abcd", 0, "length: expected a whole number >= 1, got 0"),
    ],
)
def test_what_is_no_text(text, length, message):
    with pytest.raises(InputError, match=message):
        TextDataset.of(text, length=length)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([0, 1]), r"tokens: expected a tensor \[n, length\], got \[2\]"),
        ("ab", r"tokens: .*got str"),
        (torch.tensor([[0.0]]), "tokens: expected tokens .*int64"),
        (torch.tensor([[4]]), "tokens: expected tokens from 0 to 3, got 4"),
    ],
)
def test_what_cannot_be_decoded(tokens, message):
    with pytest.raises(InputError, match=message):
        TextDataset.of("abcabc", length=2).decode_tokens(tokens)
