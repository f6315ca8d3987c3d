"""The sandbox: CleverTap's stand-in on a real socket, for tests, the demo and trying things out.

The life of a call: it takes a place in flight (or is over the ceiling: 429), a fault may claim it, the rules
judge it as the vendor would, the ledger records what became of it, and only then, after the latency, is it
answered. So whatever the client sees, or does not live to see, the ledger knows what was accepted.

It imports nothing of ours: it judges the worker, so it may not share the worker's reading of the API.
"""

from .faults import Fault, FaultKind
from .ledger import AcceptedPair, Ledger, RequestRecord, Totals, Verdict, content_digest
from .options import SandboxOptions
from .runner import Sandbox, serve
from .scenario import CampaignState, Credentials, Scenario

__all__ = [
    "AcceptedPair",
    "CampaignState",
    "Credentials",
    "Fault",
    "FaultKind",
    "Ledger",
    "RequestRecord",
    "Sandbox",
    "SandboxOptions",
    "Scenario",
    "Totals",
    "Verdict",
    "content_digest",
    "serve",
]
