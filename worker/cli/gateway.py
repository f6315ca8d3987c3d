"""`volley gateway`: the External Trigger API, served, in front of the intake."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

import typer

from worker.cli.app import DATA_FOLDER, DataOption, Refusal, app, complain, settings_with_redis


@app.command()
def gateway(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others can reach any but loopback.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8710,
    max_calls: Annotated[
        int, typer.Option("--max-calls", min=1, help="Calls that are open at once; one more is answered 429.")
    ] = 1000,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Take External Trigger calls over HTTP until Ctrl-C: same paths, headers, bodies and answers.

    A success means that Redis has the trigger. Callers use the credentials of the accounts in the settings.
    """
    from config.observability import configure_logging, start_sentry
    from worker.gateway import Options, serve

    settings = settings_with_redis(data)
    configure_logging(settings)
    start_sentry(settings)
    if not _is_loopback(host):
        complain("this is plain HTTP: put something that ends TLS in front, passcodes travel in the calls.")
    try:
        serve(
            settings, Options(host=host, port=port, max_calls=max_calls), lambda url: print(url, flush=True)
        )
    except OSError as error:
        raise Refusal(
            f"{host} port {port} cannot be listened on: {os.strerror(error.errno or 0)}."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
