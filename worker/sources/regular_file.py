"""A file as blocks of bytes."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from worker.core.errors import UnreadableSource

#: Bytes that are read at once.
BLOCK_BYTES = 262_144


def blocks_of(path: Path) -> Iterator[bytes]:
    """The file's bytes. Raises UnreadableSource where it cannot be read, or is no regular file."""
    fault = ""
    try:
        # Looked at before it is opened: opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            fault = "it is no regular file"
        else:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    yield block
    except (OSError, ValueError) as error:
        fault = (error.strerror if isinstance(error, OSError) else None) or "not a usable path"
    if fault:
        raise UnreadableSource(f"the file cannot be read: {fault}")
