"""The control API under `/_sandbox/`: read the ledger, set faults, change the scenario, all while it runs.

Answers are JSON, lists NDJSON (one object a line). What cannot be understood is answered 400 with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import get_type_hints

import orjson
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from .faults import Fault
from .ledger import AcceptedPair, RequestRecord
from .scenario import Scenario
from .server import SandboxServer

_FAULT: TypeAdapter[Fault] = TypeAdapter(Fault)
_FAULT_FIELDS = frozenset(field.name for field in dataclasses.fields(Fault))
_SCENARIO_FIELDS: dict[str, TypeAdapter[object]] = {
    name: TypeAdapter(hint) for name, hint in get_type_hints(Scenario).items()
}
#: Objects that are written to a list's stream at once.
_CHUNK = 1000


class Control:
    """The handlers of the control API of one sandbox."""

    def __init__(self, server: SandboxServer) -> None:
        self._server = server

    def routes(self) -> list[web.RouteDef]:
        """The routes, to be added before those of the server, which answer every path."""
        return [
            web.get("/_sandbox/ledger", self._ledger),
            web.get("/_sandbox/ledger/pairs", self._pairs),
            web.get("/_sandbox/requests", self._requests),
            web.get("/_sandbox/faults", self._faults),
            web.post("/_sandbox/faults", self._add_fault),
            web.delete("/_sandbox/faults", self._remove_faults),
            web.get("/_sandbox/state", self._state),
            web.put("/_sandbox/state", self._change_state),
            web.post("/_sandbox/reset", self._reset),
            web.route("*", "/_sandbox/{path:.*}", self._unknown),
        ]

    async def _ledger(self, _request: web.Request) -> web.Response:
        totals = dataclasses.asdict(self._server.ledger.totals())
        return _json({**totals, "in_flight": self._server.gate.in_flight()})

    async def _pairs(self, request: web.Request) -> web.StreamResponse:
        return await _stream(request, map(_pair, self._server.ledger.pairs()))

    async def _requests(self, request: web.Request) -> web.StreamResponse:
        given = request.query.get("limit")
        if given is not None and not (given.isascii() and given.isdigit()):
            return _wrong("limit must be a whole number")
        records = self._server.ledger.requests(None if given is None else int(given))
        return await _stream(request, map(_record, records))

    async def _faults(self, _request: web.Request) -> web.Response:
        return _json(
            [{**dataclasses.asdict(f), "remaining": left} for f, left in self._server.faults.remaining()]
        )

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            given = _object(await request.read(), _FAULT_FIELDS)
            self._server.faults.add(_FAULT.validate_python(given))
        except ValueError as error:
            return _wrong(_reason(error))
        return _json({"status": "ok"})

    async def _remove_faults(self, _request: web.Request) -> web.Response:
        self._server.faults.replace([])
        return _json({"status": "ok"})

    async def _state(self, _request: web.Request) -> web.Response:
        return _json(_shown(self._server.scenario))

    async def _change_state(self, request: web.Request) -> web.Response:
        try:
            given = _object(await request.read(), _SCENARIO_FIELDS)
            self._server.change({name: _SCENARIO_FIELDS[name].validate_python(given[name]) for name in given})
        except ValueError as error:
            return _wrong(_reason(error))
        return _json(_shown(self._server.scenario))

    async def _reset(self, _request: web.Request) -> web.Response:
        self._server.reset()
        return _json({"status": "ok"})

    async def _unknown(self, request: web.Request) -> web.Response:
        return _json({"error": f"the control API has no {request.method} {request.path}"}, status=404)


def _object(body: bytes, fields: Iterable[str]) -> dict[str, object]:
    """The JSON object in a body, if it holds none but these fields; raises `ValueError`."""
    given = orjson.loads(body)
    if not isinstance(given, dict):
        raise ValueError("the body must be a JSON object")  # noqa: TRY004 - the caller answers ValueErrors
    unknown = sorted(given.keys() - set(fields))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(fields))}")
    return given


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    # Without the input: it may be a passcode.
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}".removeprefix(": ") for p in problems)


def _shown(scenario: Scenario) -> dict[str, object]:
    """The scenario without secrets: of the credentials only the accounts."""
    shown = {name: getattr(scenario, name) for name in _SCENARIO_FIELDS if name != "credentials"}
    accounts = None if scenario.credentials is None else sorted(scenario.credentials)
    return {"accounts": accounts, **shown, "bad_recipients": sorted(scenario.bad_recipients)}


def _pair(pair: AcceptedPair) -> dict[str, object]:
    return {
        "account": pair.account,
        "campaign": pair.campaign,
        "kind": pair.kind,
        "recipient": pair.recipient,
        "count": pair.count,
        "contents": pair.contents,
    }


def _record(record: RequestRecord) -> dict[str, object]:
    return {
        "sequence": record.sequence,
        "received_at_ms": record.received_at_ms,
        "account": record.account,
        "endpoint": record.endpoint,
        "verdict": record.verdict,
        "status": record.status,
        "fault": record.fault,
        "campaigns": record.campaigns,
        "accepted_campaigns": record.accepted_campaigns,
        "content_digest": record.content_digest,
        "body": record.body.decode(errors="replace"),
    }


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS),
        content_type="application/json",
    )


def _wrong(reason: str) -> web.Response:
    return _json({"error": reason}, status=400)


async def _stream(request: web.Request, objects: Iterable[dict[str, object]]) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "application/x-ndjson"
    await response.prepare(request)
    remaining = iter(objects)
    with suppress(ConnectionError):  # a reader may have seen enough
        while chunk := list(islice(remaining, _CHUNK)):
            await response.write(
                b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in chunk)
            )
        await response.write_eof()
    return response
