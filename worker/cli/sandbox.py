"""`volley sandbox`: the API's stand-in, for trying things out without an account."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.app import Refusal, app

if TYPE_CHECKING:
    from worker.clevertap.sandbox import CampaignState, Fault


@app.command()
def sandbox(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others can reach any but loopback.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8700,
    ceiling: Annotated[
        int, typer.Option(min=0, help="Requests of an account in flight; one more is answered 429.")
    ] = 3,
    latency_ms: Annotated[
        str,
        typer.Option(metavar="MS[-MS]", help="Milliseconds that every answer takes, or a range: 200-900."),
    ] = "0",
    bad_recipient: Annotated[
        list[str] | None,
        typer.Option(metavar="VALUE", help="The API refuses a whole call with this recipient; repeatable."),
    ] = None,
    campaign: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=STATE",
            help="A campaign that is stopped, not_ready, needs_approval, wrong_type or missing; repeatable.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON",
            help='What goes wrong on purpose, such as {"kind": "answer", "status": 503, "probability": 0.1}; '
            "kinds are delay, answer, hang, cut and trickle; repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
) -> None:
    """Run a stand-in of the API until Ctrl-C.

    It enforces the limits of the API, answers in its words, and keeps a ledger of what it received.
    """
    from worker.clevertap.sandbox import SandboxOptions, serve

    try:
        options = SandboxOptions(
            host=host,
            port=port,
            ceiling=ceiling,
            latency_ms=_latency_ms(latency_ms),
            bad_recipients=frozenset(bad_recipient or ()),
            campaigns=dict(map(_campaign, campaign or ())),
            faults=tuple(map(_fault, fault or ())),
            seed=seed,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        serve(options, _say_ready)
    except OSError as error:
        raise Refusal(
            f"{host} port {port} cannot be listened on: {os.strerror(error.errno or 0)}."
        ) from error


def _latency_ms(text: str) -> float | tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        return (float(low), float(high)) if dash else float(low)
    except ValueError:
        raise typer.BadParameter("--latency-ms must be like 150 or 200-900") from None


def _campaign(text: str) -> tuple[str, CampaignState]:
    from worker.clevertap.sandbox import CampaignState

    number, _, state = text.partition("=")
    if not number.isdecimal() or state not in set(CampaignState):
        raise typer.BadParameter(
            f"--campaign must be like 1709550110=stopped; states: {', '.join(CampaignState)}"
        )
    return number, CampaignState(state)


def _fault(text: str) -> Fault:
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    from worker.clevertap.sandbox import Fault

    try:
        return TypeAdapter(with_config(ConfigDict(extra="forbid"))(Fault)).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise typer.BadParameter(f"--fault {place + ': ' if place else ''}{first['msg']}") from None


def _say_ready(url: str) -> None:
    print(url, flush=True)
    print(
        "This is no CleverTap: nobody is sent anything. Any account, passcode and token will do. To use it:\n"
        f"  export VOLLEY_BASE_URL={url} VOLLEY_ACCOUNT_ID=a VOLLEY_PASSCODE=b VOLLEY_TOKEN=c\n"
        "  volley up\n"
        f"What it has received: {url}/_sandbox/ledger",
        file=sys.stderr,
    )
