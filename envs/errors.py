"""What went wrong with something the user gave: one exception class, one line of text.

Every message names the field, the value that came and what was expected, so that the command line can print
it as it is, without a traceback.
"""

__all__ = ["InputError"]


class InputError(ValueError):
    """A value, file or density given by the user cannot be used; the message says which, and what was expected.

    Example:
        >>> raise InputError("steps: expected a whole number >= 1, got -3")
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: steps: expected a whole number >= 1, got -3
    """
