"""The last changes of a feed, in memory: bounded, and addressed by numbers that never shift.

The entry at index i has the number `base + i`. A store's token stands for the number of the first entry after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LOG_ENTRIES = 1000
LOG_BYTES = 2 * 1024 * 1024
ALL_LOGS_BYTES = 64 * 1024 * 1024
ENTRY_BYTES = 300
"""What an entry takes beside its text and token."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A change. `text`: as a server-sent event, empty for what nobody is shown; `token` continues after it."""

    token: str
    document_id: str
    run_id: str | None
    text: bytes

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.text) + len(self.token) + ENTRY_BYTES


@dataclass(slots=True)
class Budget:
    """The bytes of all logs of a process."""

    used: int = 0


@dataclass(slots=True)
class FeedLog:
    """The end of one feed. `head`: the token that continues after it."""

    head: str
    budget: Budget
    base: int = 0
    _entries: list[Entry] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _bytes: int = 0

    def __post_init__(self) -> None:
        self._numbers[self.head] = self.base

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self.base + len(self._entries)

    def number_of(self, token: str) -> int | None:
        """The number of the first entry after `token`; None when the log doesn't know."""
        number = self._numbers.get(token)
        return number if number is not None and number >= self.base else None

    def since(self, number: int) -> list[Entry] | None:
        """The entries from `number` on; None when some of them were dropped."""
        return self._entries[number - self.base :] if number >= self.base else None

    def append(self, entries: list[Entry], head: str) -> None:
        """Add what was read, and drop what no longer fits, the oldest first."""
        for entry in entries:
            self._entries.append(entry)
            self._numbers[entry.token] = self.end
            self._count(entry.size)
        self.head = head
        self._numbers[head] = self.end
        dropped = 0
        while dropped < len(self._entries) and self._over(len(self._entries) - dropped):
            self._count(-self._entries[dropped].size)
            dropped += 1
        del self._entries[:dropped]
        self.base += dropped
        if len(self._numbers) > 2 * LOG_ENTRIES:  # a head may move without entries
            kept = [(token, number) for token, number in self._numbers.items() if number >= self.base]
            self._numbers = dict(kept[-LOG_ENTRIES:])

    def clear(self) -> None:
        """Drop everything."""
        self.base = self.end
        self._entries.clear()
        self._count(-self._bytes)

    def _over(self, count: int) -> bool:
        return count > LOG_ENTRIES or self._bytes > LOG_BYTES or self.budget.used > ALL_LOGS_BYTES

    def _count(self, size: int) -> None:
        self._bytes += size
        self.budget.used += size
