"""Lines of CSV and NDJSON: whom each one names, or why it names nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.sends import FileSource
from config.sends import Kind as KindChoice
from worker.core.errors import UnreadableSource
from worker.sources import Named, named_in_file
from worker.sources.lines import LINE_MAX_BYTES, named_in_csv, named_in_ndjson, numbered

#: How fast the machine is must not decide.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def told(named: Named) -> tuple[str, str]:
    """(place, whom it names) or (place, what is wrong)."""
    if named.recipient is None:
        return named.place, named.fault
    return named.place, f"{named.recipient.kind.value}={named.recipient.value}"


def csv_of(text: str | bytes, kind: KindChoice | None = None) -> list[tuple[str, str]]:
    raw = text.encode() if isinstance(text, str) else text
    return [told(each) for each in named_in_csv(numbered([raw]), kind)]


def ndjson_of(text: str | bytes, kind: KindChoice | None = None) -> list[tuple[str, str]]:
    raw = text.encode() if isinstance(text, str) else text
    return [told(each) for each in named_in_ndjson(numbered([raw]), kind)]


def test_a_row_names_a_person_by_the_first_column_that_is_filled_in() -> None:
    text = "name,email,identity,objectId\nA,a@x.de,u1,\nB,,u2,o2\nC,,,o3\nD,,,\n"
    assert csv_of(text) == [
        ("line 2", "email=a@x.de"),
        ("line 3", "identity=u2"),
        ("line 4", "objectId=o3"),
        ("line 5", "names nobody"),
    ]


def test_a_kind_picks_its_column() -> None:
    assert csv_of("email,identity\na@x.de,u1\n,u2\n", KindChoice.IDENTITY) == [
        ("line 2", "identity=u1"),
        ("line 3", "identity=u2"),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_found_in_the_first_line(separator: str) -> None:
    text = "\ufeff\r\n" + f'Email{separator}"a {separator} b"\r\na@x.de{separator}"x {separator} y"\r\n\r\n'
    assert csv_of(text) == [("line 3", "email=a@x.de")]


def test_a_row_that_is_no_csv_stops_nobody() -> None:
    text = b'email\n"a@x.de\n\xff\nb@x.de\n' + b"c" * (LINE_MAX_BYTES + 5) + b"\n"
    assert csv_of(text) == [
        ("line 2", "is not CSV"),
        ("line 3", "is not UTF-8"),
        ("line 4", "email=b@x.de"),
        ("line 5", f"is longer than {LINE_MAX_BYTES} bytes"),
    ]


@pytest.mark.parametrize("text", ["", "name,phone\nA,1\n", b"\xff\n", '"email\na@x.de\n'])
def test_a_first_line_without_a_column_of_ours_makes_it_unreadable(text: str | bytes) -> None:
    with pytest.raises(UnreadableSource, match="does not name a column email, identity or objectId"):
        csv_of(text)


def test_a_line_of_ndjson_names_a_person() -> None:
    text = (
        '{"email":"a@x.de","name":"A"}\n{"identity":"u1"}\n\n{"objectId":"o1"}\n{"email":null,"identity":"2"}'
    )
    assert ndjson_of(text) == [
        ("line 1", "email=a@x.de"),
        ("line 2", "identity=u1"),
        ("line 4", "objectId=o1"),
        ("line 5", "identity=2"),
    ]


def test_a_text_names_a_person_where_the_kind_is_known() -> None:
    assert ndjson_of('"u1"\n{"email":"a@x.de","identity":"u2"}', KindChoice.IDENTITY) == [
        ("line 1", "identity=u1"),
        ("line 2", "identity=u2"),
    ]
    assert ndjson_of('"u1"') == [("line 1", "is a text, and the send has no kind")]


def test_what_is_wrong_with_a_line_is_told() -> None:
    text = b'{"email":17}\nnope\n[1]\n{"phone":"1"}\n\xff\n' + b'"' + b"c" * LINE_MAX_BYTES + b'"'
    assert ndjson_of(text) == [
        ("line 1", "its email is not a text"),
        ("line 2", "is not JSON"),
        ("line 3", "is neither an object nor a text"),
        ("line 4", "names no email, identity or objectId"),
        ("line 5", "is not JSON"),
        ("line 6", f"is longer than {LINE_MAX_BYTES} bytes"),
    ]


@unhurried
@given(
    st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=20), st.sampled_from([None, *KindChoice])
)
def test_any_bytes_in_any_blocks_give_the_same_lines(
    raw: bytes, cuts: list[int], kind: KindChoice | None
) -> None:
    blocks, rest = [], raw
    for cut in cuts:
        blocks.append(rest[:cut])
        rest = rest[cut:]
    blocks.append(rest)
    assert list(numbered(blocks)) == list(numbered([raw]))
    assert list(named_in_ndjson(numbered(blocks), kind)) == list(named_in_ndjson(numbered([raw]), kind))
    try:
        whole = list(named_in_csv(numbered([raw]), kind))
    except UnreadableSource:
        return
    assert list(named_in_csv(numbered(blocks), kind)) == whole


def test_a_line_without_end_takes_no_memory() -> None:
    sizes = [len(line) for _, line in numbered(b"x" * 10_000 for _ in range(1000))]
    assert len(sizes) == 1
    assert LINE_MAX_BYTES < sizes[0] < 2 * LINE_MAX_BYTES


def test_a_file_is_read_by_what_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "people.CSV").write_text("email\na@x.de\n")
    (tmp_path / "people.ndjson").write_text('{"email":"b@x.de"}\n')
    found = [
        told(each)
        for name in ("people.CSV", "people.ndjson")
        for each in named_in_file(FileSource(path=tmp_path / name, kind=None))
    ]
    assert found == [("line 2", "email=a@x.de"), ("line 1", "email=b@x.de")]


def test_what_is_no_file_is_unreadable_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "nothing", "No such file or directory"),
        (tmp_path, "no regular file"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
    ):
        with pytest.raises(UnreadableSource, match=why):
            list(named_in_file(FileSource(path=path, kind=None)))
