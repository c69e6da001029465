"""What went wrong with something the user gave: one exception class, one line of text, one check made everywhere.

Every message names the field, the value that came and what was expected, so that the command line can print
it as it is, without a traceback.
"""

__all__ = ["InputError", "whole_number"]


class InputError(ValueError):
    """A value, file or density given by the user cannot be used; the message says which, and what was expected.

    Example:
        >>> raise InputError("steps: expected a whole number >= 1, got -3")
        Traceback (most recent call last):
        ...
        ebbflow.envs.errors.InputError: steps: expected a whole number >= 1, got -3
    """


def whole_number(field: str, value: object, *, least: int) -> int:
    """Return `value` if it is a whole number (and no bool) of at least `least`.

    Raises:
        InputError: otherwise; it names the `field`.

    Example:
        >>> whole_number("steps", 5, least=1)
        5
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{field}: expected a whole number >= {least}, got {value!r}")
    return value
