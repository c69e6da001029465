"""Memory that an iteration frees is kept for the next one, and not given back to the system to be asked for again.

By default the C library gives large blocks back as soon as they are free. Every iteration then touches its memory
anew, page by page, and each page costs a trip into the kernel: with batches of some hundred rows a tenth of the time,
or nothing, as the sizes of blocks happen to fall. Results do not change; a process stays as large as it once was.
"""

import ctypes
import functools
import sys

__all__ = ["keep_freed_memory"]

# Numbers of glibc's malloc.h, and sizes in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 << 20}


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, where the C library is glibc; whether it does so now.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(name, size) == 1 for name, size in _SETTINGS.items())
