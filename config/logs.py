"""Logs: one line a record, as text or JSON, masked, and safe against values that pretend to be a line."""

import json
import logging
import sys
import time
from typing import TextIO

from config.environment import LogFormat
from config.masking import Masker, masker_of
from config.settings import Settings

#: Loggers of libraries and the least level at which they may speak. Below it they tell each hint and
#: request, and at DEBUG whole message bodies, which hold recipients.
LIBRARY_LEVELS = {
    "amqp": logging.WARNING,
    "asyncio": logging.INFO,
    "celery": logging.INFO,
    "celery.app.trace": logging.WARNING,
    "celery.beat": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "httpcore": logging.INFO,
    "httpx": logging.WARNING,
    "kombu": logging.INFO,
    "redis": logging.INFO,
    "sentry_sdk": logging.WARNING,
    "urllib3": logging.INFO,
}

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: Line breaks, terminal controls and marks that turn the direction of writing.
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for codes in ([*range(0x20), *range(0x7F, 0xA0)], [0x61C, 0x200E, 0x200F, 0xFEFF], range(0x2028, 0x202F))
    for code in codes
} | {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", **{code: f"\\u{code:04x}" for code in range(0x2066, 0x206A)}}


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Sends every record to `stream` (standard error if None), in the format and from the level of the
    settings.

    A second call replaces the first. A Celery app connects it to the signal `setup_logging`, which keeps
    Celery from setting up logs of its own.
    """
    handler = _LineHandler(stream or sys.stderr)
    masker = masker_of(settings)
    handler.setFormatter(JsonLines(masker) if settings.log_format is LogFormat.JSON else TextLines(masker))
    root = logging.getLogger()
    for old in list(root.handlers):
        # Not those of test runners and error reports, which are subclasses.
        if type(old) in (logging.StreamHandler, _LineHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    level = getattr(logging, settings.log_level.name)
    root.setLevel(level)
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, least))
    logging.captureWarnings(capture=True)


class _LineHandler(logging.StreamHandler[TextIO]):
    """Marks the handler as ours."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Says nothing: logging's own report would print the message and its arguments unmasked."""


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO worker.engine attempt status=accepted recipients=1000`."""

    def __init__(self, masker: Masker) -> None:
        super().__init__()
        self._masker = masker

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        words = [_time(record), record.levelname, record.name, _message(record)]
        words += [f"{key}={value}" for key, value in _extra(record).items()]
        trouble = _trouble(self, record)
        words += [f"| {trouble}"] if trouble else []
        return one_line(self._masker.text(" ".join(words)))


class JsonLines(logging.Formatter):
    """A JSON object: `time`, `level`, `logger`, `message`, perhaps `exception`, and what `extra` brought."""

    def __init__(self, masker: Masker) -> None:
        super().__init__()
        self._masker = masker

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end, ASCII only."""
        fields: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        trouble = _trouble(self, record)
        if trouble:
            fields["exception"] = trouble
        # A second walk after `str` of what JSON does not know: such a value may hold a secret too.
        plain = json.loads(json.dumps(_extra(record) | fields, default=_words, skipkeys=True))
        return json.dumps(self._masker.tree(plain))


def one_line(text: str) -> str:
    """The text with control characters, marks of writing direction and lone surrogates escaped."""
    return text.translate(_CONTROLS).encode(errors="backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # whatever a value's `str` raises must not cost the line
        return f"(a message that cannot be formatted, from {record.pathname}:{record.lineno})"


def _words(value: object) -> str:
    try:
        return str(value)
    except Exception:  # as above
        return f"({type(value).__name__})"


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {
        key: value if isinstance(value, (int, float, bool, dict, list, type(None))) else _words(value)
        for key, value in vars(record).items()
        if key not in _STANDARD
    }


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback and stack of a record; never logging's cached text of them, which is not ours."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)
