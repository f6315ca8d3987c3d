"""A child process that ends with its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

#: Runs in the child, before the command takes its place. It undoes what Python's own start has changed, asks
#: the kernel (prctl, PR_SET_PDEATHSIG = 1), and looks whether the parent had died before it asked.
_PROGRAM = """
import ctypes, os, signal, sys
parent, number, *command = sys.argv[1:]
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit(f"{command[0]} was not started: the process that wanted it has ended.")
os.execvp(command[0], command)
"""


def tethered(command: Sequence[str], number: signal.Signals) -> list[str]:
    """The command, wrapped so that its process gets the signal when the thread that started it has ended.

    Start it from the main thread, then that is when the parent ends, by kill -9 too. The process keeps its id
    and its inherited files. Linux alone can do this: elsewhere the command comes back as it is.
    """
    if sys.platform != "linux":
        return list(command)
    # -I and -S: nothing of the environment is needed, so nothing of it can get in the way or takes time.
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(int(number)), *command]
