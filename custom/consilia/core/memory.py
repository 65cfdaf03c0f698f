"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
import gc


def give_back_memory() -> None:
    """Collect what nobody refers to, and let the C library return free memory (glibc; elsewhere it does as it likes).

    Takes a tenth of a second. Many small objects that come and go leave holes, which the library would hold for ever:
    with hundreds of sites opened one after the other that is more than the sites need.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
