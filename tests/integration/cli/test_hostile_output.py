"""Nothing that came from outside steers a terminal, breaks a line of the log, or imitates other output."""

from __future__ import annotations

import io
import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from config.observability import configure_logging
from config.settings import Settings
from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.core.model import Kind, Recipient
from worker.store import Store

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Volley

#: A colour, a title, a move of the cursor, C1 controls, another line, another direction, markup of rich.
EVIL = "\x1b[31m\x1b]0;t\x07\x9b2J\x85\r\nx\u202ey\u2028z\u200f\u2066\x7f\0[bold]{default}"
RIGHT = {"to": {"identity": ["a"]}, "campaign_id": 65, "ExternalTrigger": {"Name": "A"}}


def obeyed(text: str) -> set[str]:
    """The characters that a terminal or a reader's eye would obey."""
    return {
        char
        for char in text
        if char != "\n" and (unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"} or char == "\ufffe")
    }


@pytest.fixture
def log(settings: Settings) -> Iterator[io.StringIO]:
    """What a worker in this process logs, in its own format."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging(settings, stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


@pytest.fixture
def everywhere(store: Store, sandbox: Sandbox, work: Callable[[], None], log: io.StringIO) -> None:
    """Hostile text in every place that a trigger, an answer or an entry of the stream offers."""
    hostile = {**RIGHT, "to": {"identity": [EVIL], "objectId": [EVIL]}, "id": EVIL, "source": EVIL}
    hostile |= {"dedupe_key": EVIL, "ExternalTrigger": {EVIL: EVIL}}
    said = json.dumps({"status": "fail", "error": f"{EVIL} said"})
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=400, body=said, times=1))
    sandbox.change(campaigns={"66": CampaignState.STOPPED})
    for each in (
        hostile,
        {**hostile, "campaign_id": 66},
        {**RIGHT, EVIL: 1},
        {**RIGHT, "to": {EVIL: ["a"]}},
        {**RIGHT, "ExternalTrigger": {EVIL: 1}},
        {**RIGHT, "priority": EVIL},
        {**RIGHT, "campaign_id": EVIL},
        {**RIGHT, "send_at": EVIL},
        {**RIGHT, "to": {"email": [f"{EVIL}@{EVIL}"]}},
    ):
        store.intake.append([json.dumps(each).encode()], repr(each))
    store.intake._client.xadd(store.intake.stream, {EVIL: EVIL})
    store.intake._client.xadd(store.intake.stream, {"trigger": EVIL})
    store.door.remember_bad([Recipient(Kind.IDENTITY, EVIL)], 60_000)
    work()


LINES = [
    ["outcomes"],
    ["outcomes", "--json"],
    ["outcomes", "--id", EVIL],
    ["outcomes", "--recipient", EVIL.replace("\0", "")],
    ["status"],
    ["status", "--json"],
    ["dead"],
    ["dead", "--show-trigger"],
    ["dead", "--json", "--show-trigger"],
    ["dead", "discard", "1-1", "--yes"],
    ["bad"],
    ["bad", "--json"],
    ["bad", "remove", "no such \x1b[31m", "--yes"],
    ["retry", "--dry-run"],
    ["retry", "--dry-run", "--json"],
    ["cancel", "--campaign", "66", "--yes"],
    ["enqueue", "-", "--dry-run"],
]


@pytest.mark.usefixtures("everywhere")
def test_what_a_command_prints_steers_no_terminal(volley: Volley) -> None:
    for line in LINES:
        ran = volley(*line, stdin=json.dumps({**RIGHT, EVIL: EVIL}).encode())
        assert obeyed(ran.out + ran.err) == set(), line
        assert ran.out + ran.err, line


@pytest.mark.usefixtures("everywhere")
def test_what_json_prints_is_still_the_same_text(volley: Volley) -> None:
    recipients = {o["recipient"]["value"] for o in volley("outcomes", "--json").objects}
    assert EVIL in recipients
    assert EVIL in {o["value"] for o in volley("bad", "--json").objects}


@pytest.mark.usefixtures("everywhere")
def test_a_log_has_one_line_a_record_whatever_a_trigger_holds(log: io.StringIO) -> None:
    lines = log.getvalue().splitlines()
    assert len(lines) >= 10
    for line in lines:
        assert re.match(r"[0-9T:.-]{23}Z (INFO|WARNING|ERROR) [a-z.]+ ", line), line
        assert obeyed(line) == set()
        assert "said" not in line or "[31m" not in line


@pytest.mark.usefixtures("everywhere")
def test_no_name_of_a_key_comes_from_a_trigger(store: Store) -> None:
    client: Any = store.intake._client
    keys = client.keys("*")
    assert all(key.startswith(b"volley:{default}:") for key in keys)
    assert not [key for key in keys if b"\x1b" in key]
