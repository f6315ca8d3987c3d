"""Volley's worker: gets External Trigger sends to CleverTap, each one once and in time."""
