"""How an answer reaches the client, or doesn't: written, trickled, cut, or never."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from .answers import Answer

#: How often a call that hangs looks whether its client has left.
_LOOK_SECONDS = 0.02


async def write(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Write the answer; it is with the kernel when this returns."""
    response = web.Response(
        status=answer.status, body=answer.body, headers=answer.headers, content_type="application/json"
    )
    with suppress(ConnectionError):  # the client has left
        await response.prepare(request)
        await response.write_eof()
    return response


async def trickle(request: web.Request, answer: Answer, interval_seconds: float) -> web.StreamResponse:
    """Write the answer's body byte by byte, until the client leaves."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_type = "application/json"
    response.content_length = len(answer.body)
    await response.prepare(request)
    with suppress(ConnectionError):
        for position in range(len(answer.body)):
            await asyncio.sleep(interval_seconds)
            await response.write(answer.body[position : position + 1])
        await response.write_eof()
    return response


async def outwait(request: web.Request) -> web.StreamResponse:
    """Answer nothing until the client leaves."""
    # aiohttp tells a handler of this by cancelling it or not at all, and cancelling would free the place in
    # flight of every other call whose client leaves.
    while request.transport is not None:  # noqa: ASYNC110 - see above: nothing would set an event
        await asyncio.sleep(_LOOK_SECONDS)
    return web.Response()


def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # aiohttp wants one; it has nowhere to write it
