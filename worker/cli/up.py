"""`volley up`: everything that Volley needs, as one process tree.

The embedded server is started first and ended last, so that the worker can record what it had on the wire.
If `up` is killed, the worker and beat end as if they had been told to; the server stays, and the next `up`
with the same data folder takes it over.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import DATA_FOLDER, DataOption, ExitCode, app

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.store.embedded import EmbeddedServer

#: Seconds that a worker may take to end, beyond the end of its permits: where Redis is away, it tries to
#: record its answers until then.
_MARGIN_SECONDS = 15.0

_ROOT = Path(__file__).resolve().parents[2]


@app.command()
def up(
    *,
    data: DataOption = DATA_FOLDER,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Tasks that the worker runs at once (VOLLEY_CONCURRENCY).")
    ] = None,
    beat: Annotated[
        bool, typer.Option("--beat/--no-beat", help="Run beat; an installation needs one, and one only.")
    ] = True,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Least severe record that is logged (VOLLEY_LOG_LEVEL)."),
    ] = None,
) -> None:
    """Run everything here: a server unless one is given, a worker and beat.

    Ctrl-C ends it: requests in flight are waited for, and the data stays in its folder. A second Ctrl-C
    does not wait.
    """
    from config.settings import load

    given = {"VOLLEY_CONCURRENCY": concurrency, "VOLLEY_LOG_LEVEL": log_level}
    environ = os.environ | {name: str(value) for name, value in given.items() if value is not None}
    settings = load(environ)
    if not settings.embedded:
        clean = _supervise(settings, environ, beat=beat, server=None)
    else:
        from worker.store.embedded import EmbeddedServer

        # Until the supervisor listens, and after it has: the same way out as for Ctrl-C, by way of `with`.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        with EmbeddedServer(data) as server:
            environ["VOLLEY_REDIS_URL"] = server.url
            clean = _supervise(settings, environ, beat=beat, server=server)
    if not clean:
        raise typer.Exit(ExitCode.FAILED)


def _supervise(
    settings: Settings, environ: Mapping[str, str], *, beat: bool, server: EmbeddedServer | None
) -> bool:
    from worker.cli.supervisor import Supervisor

    # -P and the order of the path: a package `tasks` or `config` of the current folder is not ours.
    celery = [sys.executable, "-P", "-m", "celery", "-A", "worker.app", "--quiet"]
    # Workers need not know of each other, and looking for others delays the start by a second.
    alone = ["--without-gossip", "--without-mingle"]
    commands = {"worker": [*celery, "worker", *alone, "--hostname", f"volley-{os.getpid()}@%h"]}
    if beat:
        commands["beat"] = [*celery, "beat"]
    path = [str(_ROOT), *filter(None, [environ.get("PYTHONPATH")]), str(Path.cwd())]
    held_seconds = max(
        max(account.permit_lease_seconds, account.request_deadline_seconds)
        for account in settings.accounts.values()
    )

    def server_is_there() -> bool:
        if server is None or server.is_running():
            return True
        # It keeps its port, so the worker and beat find it again by themselves.
        supervisor.say("the embedded server has died; starting it again")
        if server.start() == environ["VOLLEY_REDIS_URL"]:
            return True
        supervisor.say("its port was taken meanwhile")
        return False

    supervisor = Supervisor(
        commands,
        {**environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"},
        patience_seconds=held_seconds + _MARGIN_SECONDS,
        watch=server_is_there,
    )
    if server is not None:
        supervisor.say(f"server {server.url}, data in {server.folder}; Ctrl-C ends all")
    return supervisor.run()
