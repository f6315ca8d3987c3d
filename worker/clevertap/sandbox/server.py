"""The sandbox's HTTP side: takes a call through gate, faults, rules and ledger to its answer."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from . import responses
from .answers import Refusal, refused
from .faults import Fault, FaultBook, FaultKind
from .gate import Gate
from .ledger import Ledger, Verdict
from .options import SandboxOptions
from .rules import Call, Endpoint, Headers, Judgement, judge, read_call
from .scenario import Scenario, latency_bounds

#: Faults that keep the rules from judging a call, unless they strike after accepting; and the verdict then.
_UNJUDGED = {FaultKind.ANSWER: Verdict.FAILED, FaultKind.HANG: Verdict.HUNG, FaultKind.CUT: Verdict.CUT}


class SandboxServer:
    """The state of one sandbox and the handlers of its calls. Handlers run in one event loop."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.scenario: Scenario = options
        self.faults = FaultBook(options.faults, options.seed)
        self.ledger = Ledger(options.requests_kept)
        self.gate = Gate()
        self._random = random.Random(options.seed)  # noqa: S311 - repeatable, not secret

    def change(self, changes: Mapping[str, object]) -> None:
        """Replace these fields of the scenario.

        Raises `ValueError` for a wrong value and `TypeError` for an unknown field; then nothing is changed.
        """
        self.scenario = dataclasses.replace(self.scenario, **changes)  # type: ignore[arg-type]

    def reset(self) -> None:
        """Return to the scenario and the faults of the start, with an empty ledger."""
        self.scenario = self.options
        self.faults.replace(self.options.faults)
        self.ledger.reset()

    def routes(self) -> list[web.RouteDef]:
        """The API's endpoints, and answers in the vendor's shape for everything else."""
        return [
            *(web.post(endpoint, self._send) for endpoint in Endpoint),
            *(web.route("*", endpoint, self._wrong_method) for endpoint in Endpoint),
            web.route("*", "/{path:.*}", self._no_such_resource),
        ]

    async def _send(self, request: web.Request) -> web.StreamResponse:
        headers = _headers(request)
        record = partial(self.ledger.record, received_at_ms=_now_ms(), account=headers.account)
        # The place in flight is held until the answer is written, hence the writing inside of the block.
        with self.gate.enter(headers.account, self.scenario.ceiling) as entry:
            self.ledger.note_in_flight(headers.account, entry.open)
            try:
                body = await request.read()
            except web.HTTPRequestEntityTooLarge:
                record(call=_unread(request), verdict=Verdict.REFUSED, status=413)
                return await responses.write(request, refused(413, Refusal.TOO_LARGE))
            except OSError:
                record(call=_unread(request), verdict=Verdict.INCOMPLETE, status=None)
                return responses.cut(request)
            call = read_call(request.path, body)
            if not entry.admitted:
                record(call=call, body=body, verdict=Verdict.OVER_LIMIT, status=429)
                return await responses.write(request, refused(429, Refusal.OVER_LIMIT))
            fault = self.faults.claim(call)
            judgement = self._judge(call, headers, fault)
            record(
                call=call,
                body=body,
                verdict=_verdict(call, judgement, fault),
                status=_status(judgement, fault),
                accepted_campaigns=judgement.accepted_campaigns if judgement else (),
                fault=fault.kind if fault else None,
            )
            await self._take_time(fault)
            return await _respond(request, judgement, fault)

    def _judge(self, call: Call, headers: Headers, fault: Fault | None) -> Judgement | None:
        """The rules' judgement; None if a fault keeps the call from being judged."""
        skipped = fault is not None and fault.kind in _UNJUDGED and not fault.after_accepting
        return None if skipped else judge(call, headers, self.scenario)

    async def _take_time(self, fault: Fault | None) -> None:
        own = fault.latency_ms if fault is not None else None
        low, high = latency_bounds(self.scenario.latency_ms if own is None else own)
        # A client that leaves meanwhile doesn't end the wait: at the vendor's, too, its request goes on.
        if high:
            await asyncio.sleep(self._random.uniform(low, high) / 1000)

    async def _wrong_method(self, request: web.Request) -> web.StreamResponse:
        return await self._stray(request, 405, Refusal.WRONG_METHOD)

    async def _no_such_resource(self, request: web.Request) -> web.StreamResponse:
        return await self._stray(request, 404, Refusal.NO_SUCH_RESOURCE)

    async def _stray(self, request: web.Request, status: int, error: Refusal) -> web.StreamResponse:
        self.ledger.record(
            received_at_ms=_now_ms(),
            account=_headers(request).account,
            call=_unread(request),
            verdict=Verdict.REFUSED,
            status=status,
        )
        return await responses.write(request, refused(status, error))


async def _respond(
    request: web.Request, judgement: Judgement | None, fault: Fault | None
) -> web.StreamResponse:
    kind = fault.kind if fault is not None else None
    if fault is not None and kind is FaultKind.ANSWER:
        return await responses.write(request, fault.answer())
    if kind is FaultKind.HANG:
        return await responses.outwait(request)
    if kind is FaultKind.CUT:
        return responses.cut(request)
    assert judgement is not None  # noqa: S101 - every other call was judged
    if fault is not None and kind is FaultKind.TRICKLE:
        return await responses.trickle(request, judgement.answer, fault.interval_ms / 1000)
    return await responses.write(request, judgement.answer)


def _verdict(call: Call, judgement: Judgement | None, fault: Fault | None) -> Verdict:
    if judgement is None:
        assert fault is not None  # noqa: S101 - only a fault keeps a call from being judged
        return _UNJUDGED[fault.kind]
    if judgement.answer.status != 200:
        return Verdict.REFUSED
    return Verdict.ACCEPTED if judgement.accepted_campaigns == call.campaigns else Verdict.PARTIAL


def _status(judgement: Judgement | None, fault: Fault | None) -> int | None:
    """The HTTP code that the client is to see; None if it is to see none."""
    match fault:
        case Fault(kind=FaultKind.HANG | FaultKind.CUT):
            return None
        case Fault(kind=FaultKind.ANSWER, status=status):
            return status
        case _:
            return judgement.answer.status if judgement else None


def _headers(request: web.Request) -> Headers:
    return Headers(
        account=request.headers.get("X-CleverTap-Account-Id", ""),
        passcode=request.headers.get("X-CleverTap-Passcode", ""),
        token=request.headers.get("X-CleverTap-Token", ""),
        content_type=request.content_type,
    )


def _unread(request: web.Request) -> Call:
    return Call(request.path, None, (), {})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
