"""`python -m worker` is the command `volley`."""

from worker.cli import main

main()
