"""The External Trigger API, served: an app that calls CleverTap today changes the host and calls Volley.

A call is checked, appended to the intake of its account, and answered in the vendor's own words. "Added to
queue for processing" means here what it means there, one step earlier: Redis has it. What becomes of it is
found among the outcomes.
"""

from worker.gateway.runner import Gateway, serve
from worker.gateway.server import Options

__all__ = ["Gateway", "Options", "serve"]
