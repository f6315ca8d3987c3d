"""The command `volley`, also `python -m worker`: a module for each subcommand, `app` for what they share."""

from worker.cli.app import main

__all__ = ["main"]
