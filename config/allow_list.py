"""Test mode: the recipients that are really sent to, and nobody else.

An allow-list is made of personal values: it is in no repr and no error text.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from config.wording import SettingsError

#: How the External Trigger API names recipients.
KINDS = ("email", "identity", "objectId")
#: What one entry must look like, for error texts.
FORM = "email:..., identity:... or objectId:..."


@dataclass(frozen=True, slots=True)
class AllowList:
    """Recipients as (kind, value). An empty one lets nobody through."""

    recipients: frozenset[tuple[str, str]] = field(repr=False)

    def __contains__(self, recipient: tuple[str, str]) -> bool:
        """Whether this recipient, (kind, value), is really sent to."""
        return recipient in self.recipients

    def __len__(self) -> int:
        """How many it names."""
        return len(self.recipients)

    def __and__(self, other: "AllowList | None") -> "AllowList":
        """Those that both name; None stands for no test mode."""
        return self if other is None else AllowList(self.recipients & other.recipients)


def allow_list(entries: Iterable[str], label: str) -> AllowList:
    """The allow-list of these entries, ``kind:value`` each.

    Raises SettingsError that names the setting and the entry's place, never the entry.
    """
    found = set()
    for number, entry in enumerate(entries, start=1):
        kind, colon, value = entry.strip().partition(":")
        if not colon or kind not in KINDS or not value.strip():
            raise SettingsError(f"{label} must list recipients as {FORM}: entry {number} is none.")
        found.add((kind, value.strip()))
    return AllowList(frozenset(found))


def split_list(text: str) -> list[str]:
    """The entries of a text: one a line, or with commas between; empty ones are left out."""
    return [entry for line in text.splitlines() for entry in line.split(",") if entry.strip()]
