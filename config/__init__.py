"""Settings, Celery's configuration, logs and error reports.

This room lies below all the others and imports nothing of theirs. `settings.load()` is its front door.
"""
