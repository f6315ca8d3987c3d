"""How a sandbox is started."""

from __future__ import annotations

from dataclasses import dataclass

from .faults import Fault
from .scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class SandboxOptions(Scenario):
    """Where the sandbox listens, the scenario and the faults it begins with (and returns to on reset)."""

    #: Address to listen on. Anything but loopback opens a server without access control to others.
    host: str = "127.0.0.1"
    #: Port to listen on; 0 takes a free one.
    port: int = 0
    #: Faults that are set from the start; the first that matches a call wins.
    faults: tuple[Fault, ...] = ()
    #: Seed of all randomness (latencies, probabilities of faults).
    seed: int = 0
    #: Requests that the ledger keeps in full, the newest ones. Its counts cover all of them regardless.
    requests_kept: int = 10_000
    #: Largest body that is read, in bytes; a larger one is answered 413.
    max_body_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.requests_kept < 0:
            raise ValueError("requests_kept must not be negative")
