"""How a wrong setting is told: one sentence that names the setting, what it is and what it must be.

The sentences are made from the declared types of the fields, so a bound and the words about it cannot part.
Values of secrets never get in: only numbers, switches and choices are shown, cut short and escaped.
"""

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

#: Characters of a wrong value that an error text shows at most.
SHOWN_CHARACTERS = 40


class SettingsError(Exception):
    """The settings are wrong or contradict each other; `str` of it is one sentence that names the setting."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a numeric field with the unit that it counts."""

    name: str


@dataclass(frozen=True, slots=True)
class Says:
    """Marks a text field with what it must be, in words."""

    words: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A field's type as a reader needs it: `kind` for a table, `requirement` for the sentence "must be …"."""

    kind: str
    requirement: str
    showable: bool


def number(value: float) -> str:
    """The number as a person writes it: 30, not 30.0."""
    return str(int(value)) if float(value).is_integer() else repr(value)


def alternatives(words: Iterable[str]) -> str:
    """'a', 'a or b', 'a, b or c'."""
    *head, last = words
    return f"{', '.join(head)} or {last}" if head else last


def shown(value: object) -> str:
    """A wrong value, safe to print on one line: escaped and cut to `SHOWN_CHARACTERS`."""
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing where no known word is near."""
    matches = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return f" (did you mean {matches[0]}?)" if matches else ""


def shape_of(field: FieldInfo) -> Shape:
    """The shape that a field's annotation and constraints declare."""
    kind, marks = _unwrapped(field.annotation, list(field.metadata))
    unit = next((f" of {mark.name}" for mark in marks if isinstance(mark, Unit)), "")
    said = next((mark.words for mark in marks if isinstance(mark, Says)), "")
    if kind is bool:
        return Shape("true or false", "true or false", showable=True)
    if isinstance(kind, type) and issubclass(kind, Enum):
        choices = [str(member.value) for member in kind]
        return Shape(" | ".join(choices), f"one of {alternatives(choices)}", showable=True)
    if kind is int:
        return Shape(unit[4:] or "whole number", f"a whole number{unit}{_bounds(marks)}", showable=True)
    if kind is float:
        return Shape(unit[4:] or "number", f"a number{unit}{_bounds(marks)}", showable=True)
    if kind is Path:
        return Shape("path", "the path of a file", showable=False)
    return Shape("secret" if kind is SecretStr else "text", said or "text", showable=False)


def first_fault(
    error: ValidationError, fields: Mapping[str, FieldInfo], place: str = "", prefix: str = ""
) -> str:
    """The first fault of a validation as one sentence.

    `place` follows a field's name (' in [accounts.shop] of volley.toml'), `prefix` makes it a variable.
    """
    fault = error.errors(include_url=False, include_context=False)[0]
    key = str(fault["loc"][0]) if fault["loc"] else ""
    name = f"{prefix}{key.upper()}" if prefix else key
    if key not in fields:
        return f"{shown(key)}{place} is not a setting{nearest(key, fields)}."
    shape = shape_of(fields[key])
    is_what = f" is {shown(fault['input'])} but" if shape.showable else ""
    return f"{name}{place}{is_what} must be {shape.requirement}."


def _unwrapped(annotation: Any, marks: list[Any]) -> tuple[Any, list[Any]]:
    """The bare type below `Annotated` and `| None`, with all marks found on the way."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        for mark in more:
            marks += mark.metadata if isinstance(mark, FieldInfo) else [mark]
        return _unwrapped(inner, marks)
    if origin in (Union, types.UnionType):
        return _unwrapped(next(one for one in get_args(annotation) if one is not type(None)), marks)
    return annotation, marks


def _bounds(marks: Iterable[Any]) -> str:
    low = high = ""
    for mark in marks:
        if isinstance(mark, Ge):
            low = f" from {number(cast('float', mark.ge))}"
        elif isinstance(mark, Gt):
            low = f" above {number(cast('float', mark.gt))}"
        elif isinstance(mark, Le):
            high = number(cast("float", mark.le))
    if not high:
        return low
    return f"{low} {'to' if low.startswith(' from') else 'and up to'} {high}"
