"""Gives memory back to the system: requests are megabytes that come and go in many threads, and a start runs much code once."""

import ctypes
import logging
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["give_memory_back", "trim", "unmap_code"]

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 1 << 20
_ARENAS_MAX = 4
# Advice of madvise(2).
_MADV_DONTNEED = 4
_CODE_KIB_MIN = 4096
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)")


class _Mapping(NamedTuple):
    begin: int
    end: int
    path: str
    rights: str
    kib: dict[str, int]  # fields of smaps

    @property
    def is_clean_code(self) -> bool:
        """Whether it is much code or constants of a library, none of which differ from the file.

        What the process has changed is anonymous. (Pages of a file that was just installed are dirty: it is not on the disk yet.)
        """
        return (
            self.path.endswith(".so")
            and self.rights in ("r-xp", "r--p")
            and self.kib.get("Anonymous") == 0
            and self.kib.get("Rss", 0) >= _CODE_KIB_MIN
        )


def give_memory_back() -> None:
    """Bounds what the C library keeps of freed memory; does nothing where it is not glibc.

    By itself glibc raises the size from which a block is unmapped when it is freed up to 32 MiB, and keeps smaller ones in
    up to eight heaps a processor, so that each thread that ever held a large request goes on holding its memory. Smaller ones are
    used again until :func:`trim`, as the system takes longer to map and clear memory than it takes to read a request.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        logger.debug("no mallopt here: memory is given back as the C library sees fit")
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS_MAX)


def trim() -> None:
    """Gives back what is free between blocks that are in use, too; does nothing where the C library is not glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def unmap_code() -> None:
    """Unmaps the code of large libraries, so that only what runs from now on counts as resident; does nothing where it cannot.

    A start runs much of a database engine once, and the system maps what is around it, too. The pages are unchanged parts of
    files: whatever is used again is mapped again, from the system's cache.
    """
    try:
        madvise = ctypes.CDLL(None).madvise
        mappings = _mappings(Path("/proc/self/smaps").read_text("utf-8"))
    except (OSError, AttributeError, ValueError):
        logger.debug("no madvise or no smaps here: code stays mapped")
        return
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for mapping in mappings:
        if mapping.is_clean_code:
            madvise(mapping.begin, mapping.end - mapping.begin, _MADV_DONTNEED)


def _mappings(smaps: str) -> list[_Mapping]:
    """What `/proc/PID/smaps` says (proc(5)). Raises ValueError if it is not of that form."""
    found: list[_Mapping] = []
    for line in smaps.splitlines():
        if begins := _MAPPING.fullmatch(line):
            begin, end, rights, path = begins.groups()
            found.append(_Mapping(int(begin, 16), int(end, 16), path, rights, {}))
        elif line.endswith(" kB"):
            name, amount = line.split(":")
            found[-1].kib[name] = int(amount.split()[0])
    return found
