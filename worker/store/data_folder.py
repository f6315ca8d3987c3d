"""The data folder of the embedded server: who owns it, whether its server lives, and what was written down.

Both questions are answered by locks (flock), which end with the processes that hold them; process ids are
noted for people only, since the system gives the id of a dead process to another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

#: Lines of the server's log that an error shows.
_LOG_LINES = 8


class EmbeddedServerError(Exception):
    """The embedded server cannot be started; the text is made for people and names the folder."""


class FolderInUseError(EmbeddedServerError):
    """Another process owns the data folder."""


class DataFolder:
    """The folder at `path`, links resolved. Methods raise OSError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.log_path = self.path / "valkey.log"
        self._owner_lock: int | None = None

    def own(self) -> None:
        """Makes it if it is missing, readable by this user only, and takes it for this process.

        Raises FolderInUseError, which names the owner.
        """
        if self._owner_lock is not None:
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owner_lock = _lock(self.path / "owner.lock")
        if self._owner_lock is None:
            owner = self.noted("owner.lock") or "unknown"
            raise FolderInUseError(
                f"{self.path} is in use by process {owner}: stop that one, or use another data folder."
            )
        os.ftruncate(self._owner_lock, 0)
        os.pwrite(self._owner_lock, f"{os.getpid()}\n".encode(), 0)

    def disown(self) -> None:
        """Gives it back; does nothing if it is not owned."""
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    def lock_for_server(self) -> int | None:
        """The open file that a new server is to inherit, or None while a server lives.

        The lock lasts until every copy of the file is closed: the caller closes its own.
        """
        return _lock(self.path / "server.lock")

    @property
    def has_server(self) -> bool:
        """Whether a server lives in it."""
        if (server_lock := self.lock_for_server()) is None:
            return True
        os.close(server_lock)
        return False

    def note_port(self, port: int) -> None:
        """Writes down where the server listens."""
        (self.path / "port").write_text(f"{port}\n")

    def noted(self, name: str) -> int:
        """The number in the file `port`, `pid` or `owner.lock`; 0 where there is none."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.path / name).read_text())
        return 0

    def log_since(self, position: int) -> str:
        """What the server has logged behind a position, in bytes."""
        with self.log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def failure(self, what: str) -> EmbeddedServerError:
        """The error "The server in … <what>", with the end of the server's log."""
        end = "\n".join(f"  {line}" for line in self.log_since(0).splitlines()[-_LOG_LINES:])
        return EmbeddedServerError(
            f"The server in {self.path} {what}. The end of its log, {self.log_path}:\n{end}"
        )


def _lock(path: Path) -> int | None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    return file
