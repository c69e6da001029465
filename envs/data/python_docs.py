"""English text that comes with every Python: the language reference that `help()` shows, topic by topic.

CPython ships it as a module, `pydoc_data.topics`, under the PSF licence (docs.python.org/3/license.html). Its words
change a little from one version of Python to the next: 465,126 characters of 103 kinds in Python 3.11.7.
"""

from ..errors import InputError
from .text import TextDataset

__all__ = ["python_docs"]


def python_docs(length: int = 32) -> TextDataset:
    """Windows of Python's language reference, all topics in alphabetical order of their names, a tenth held out.

    Args:
        length: characters of a window, >= 1.

    Raises:
        InputError: for a length out of range, or a Python that was installed without its help.

    Example:
        >>> target = python_docs()
        >>> [len(text) for text in target.decode_tokens(target.sample(2))]
        [32, 32]
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "target 'python-docs': this Python was installed without pydoc_data, its help texts"
        ) from error
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return TextDataset.of(text, length=length, name="python-docs" if length == 32 else f"python-docs-{length}")
