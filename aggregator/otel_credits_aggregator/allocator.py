"""Has the C library give memory back: requests are megabytes that come and go in many threads."""

import ctypes
import logging

__all__ = ["give_memory_back"]

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 256 << 10
_ARENAS_MAX = 4


def give_memory_back() -> None:
    """Bounds what the C library keeps of freed memory; does nothing where it is not glibc.

    By itself glibc raises the size from which a block is unmapped when it is freed up to 32 MiB, and keeps smaller ones in
    up to eight heaps a processor, so that each thread that ever held a large request goes on holding its memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        logger.debug("no mallopt here: memory is given back as the C library sees fit")
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS_MAX)
