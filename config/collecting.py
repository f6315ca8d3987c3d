"""How often a worker's process looks for reference cycles."""

from __future__ import annotations

import gc

#: Containers made, and not gone by themselves, before Python looks for cycles among the youngest.
YOUNGEST = 50_000


def collect_rarely() -> None:
    """Makes Python look for cycles rarely, and never among what is there already.

    What triggers and batches are made of goes by itself when nobody refers to it any more. Looking through
    thousands of them for cycles that are not there took a tenth of the time of accepting (``make bench``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNGEST, *gc.get_threshold()[1:])
