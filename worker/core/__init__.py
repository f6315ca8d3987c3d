"""The functional core: no Celery, no Redis, no HTTP, no clock, no randomness. They come in as arguments."""
