"""Runs a few processes side by side: relays what they say, starts again what dies, ends all of them together.

Life of a child: it is started in a session of its own, so that Ctrl-C reaches only the supervisor, and tied
to it, so that it is told to end when the supervisor is killed. A child that dies is started again after a
pause that grows from time to time. The first signal to the supervisor tells every child to end (SIGTERM) and
waits; the second one, or the end of patience, kills what is left, each with all of its own children.

One thread: signals and pipes wake the same loop.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from worker.store.tether import tethered

#: Pause before a child is started again, seconds: doubled each time, up to the second number.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
#: A child that has lived so long is well again: its next pause is the shortest one. Seconds.
_WELL_SECONDS = 60.0
#: Seconds between two looks at what sends no signal.
_TICK_SECONDS = 1.0
#: Seconds for the last words of a killed child; a grandchild that got away may keep the pipe open for ever.
_LAST_WORDS_SECONDS = 2.0
_CHUNK_BYTES = 65_536
#: A line longer than this is printed in pieces.
_LINE_BYTES = 1_048_576

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True, eq=False)
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_seconds: float = _PAUSE_SECONDS
    #: When it is started again, on the monotonic clock.
    due: float = 0.0
    unfinished_line: bytes = b""


class Supervisor:
    """`commands` by name; `environ` is the whole environment of each child.

    `patience_seconds`: how long children may take to end. `watch` is called every second or so until the end
    begins; false means that going on makes no sense.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        environ: Mapping[str, str],
        *,
        patience_seconds: float,
        watch: Callable[[], bool] = lambda: True,
    ) -> None:
        self._children = [_Child(name, command) for name, command in commands.items()]
        self._environ = dict(environ)
        self._patience_seconds = patience_seconds
        self._watch = watch
        self._width = max(map(len, [*commands, "volley"]))
        self._signals = 0
        self._silenced = False
        self._selector = selectors.DefaultSelector()

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self._print("volley", text.encode())

    def run(self) -> bool:
        """Runs until a signal to end (SIGINT, SIGTERM, SIGHUP); only in the main thread.

        True if every child has ended by itself when it was told to, and nothing made going on senseless.
        """
        with self._woken_by_signals(), self._selector:
            try:
                sound = self._keep_running()
                return self._end() and sound
            finally:
                for child in self._children:
                    self._kill(child)

    def _keep_running(self) -> bool:
        while not self._signals:
            now = time.monotonic()
            for child in self._children:
                if child.process is not None and child.process.poll() is not None:
                    self._bury(child, now)
                if child.process is None and child.due <= now:
                    self._start(child, now)
            if not self._watch():
                return False
            self._relay(_TICK_SECONDS)
        return True

    def _end(self) -> bool:
        living = [child for child in self._children if child.process is not None]
        self.say(
            f"ending {' and '.join(child.name for child in living)}; once more to kill"
            if living
            else "ending"
        )
        for child in living:
            if child.process is not None:
                child.process.terminate()
        clean, before, deadline = True, self._signals, time.monotonic() + self._patience_seconds
        while living:
            if self._signals > before or time.monotonic() > deadline:
                self.say(f"killing {' and '.join(child.name for child in living)}")
                clean = False
                break
            self._relay(0.1)
            for child in living:
                if child.process is not None and child.process.poll() is not None:
                    self._kill(child)
            living = [child for child in living if child.process is not None]
        return clean

    def _start(self, child: _Child, now: float) -> None:
        child.started = now
        child.process = subprocess.Popen(  # noqa: S603  # nothing in it comes from outside
            tethered(child.command, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environ,
            start_new_session=True,
        )
        if child.process.stdout is not None:
            os.set_blocking(child.process.stdout.fileno(), False)
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _bury(self, child: _Child, now: float) -> None:
        """Says how a child died, and when it comes back."""
        code = child.process.returncode if child.process is not None else 0
        self._kill(child)
        if now - child.started >= _WELL_SECONDS:
            child.pause_seconds = _PAUSE_SECONDS
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self.say(f"{child.name} {how}; it is started again in {child.pause_seconds:.0f} s")
        child.due = now + child.pause_seconds
        child.pause_seconds = min(2 * child.pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _kill(self, child: _Child) -> None:
        """Kills what is left of a child and its own children, and prints its last words."""
        process = child.process
        if process is None:
            return
        # The processes of a pool may outlive it in its group. It was waited for a moment ago at most, so its
        # id is not another one's yet.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            self._read_out(child, process.stdout.fileno())
            self._selector_forget(process)
            process.stdout.close()
        child.process = None

    def _read_out(self, child: _Child, pipe: int) -> None:
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while time.monotonic() < deadline:
            try:
                said = os.read(pipe, _CHUNK_BYTES)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            if not said:
                break
            self._hear(child, said)
        if child.unfinished_line:
            self._hear(child, b"\n")

    def _selector_forget(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None and process.stdout in self._selector.get_map():
            self._selector.unregister(process.stdout)

    def _relay(self, seconds: float) -> None:
        """Prints what children say; returns at the latest after so many seconds, or with a signal."""
        for key, _ in self._selector.select(seconds):
            if not isinstance(key.data, _Child):
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, _CHUNK_BYTES)  # numbers of signals, which their handlers have counted
                continue
            try:
                said = os.read(key.fd, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            if said:
                self._hear(key.data, said)
            else:
                self._selector.unregister(key.fileobj)

    def _hear(self, child: _Child, said: bytes) -> None:
        *lines, rest = (child.unfinished_line + said).split(b"\n")
        if len(rest) > _LINE_BYTES:
            lines, rest = [*lines, rest], b""
        child.unfinished_line = rest
        for line in lines:
            self._print(child.name, line)

    def _print(self, name: str, line: bytes) -> None:
        if self._silenced:
            return
        try:
            sys.stdout.buffer.write(f"{name:<{self._width}} | ".encode() + line + b"\n")
            sys.stdout.buffer.flush()
        except OSError:
            # Nobody reads any more (a closed terminal, `| head`): that is a wish to end, too.
            self._silenced = True
            self._signals += 1
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """Signals to end are counted, and those and SIGCHLD wake the loop."""

        def count(number: int, _: FrameType | None) -> None:
            if number != signal.SIGCHLD:
                self._signals += 1

        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ)
        handlers = {number: signal.signal(number, count) for number in (*_STOP_SIGNALS, signal.SIGCHLD)}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()
