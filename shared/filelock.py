"""A fair lock between processes: the kernel wakes the next one at once, and a killed one lets go."""

from __future__ import annotations

from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: SQLite's own locks have to do
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """Held by at most one `FileLock` of a path at a time, in any process. Its methods may be called from any thread.

    Who waits for the room holds the door, and everyone comes through the door: else a process that writes without a
    pause would take the lock again before the one that waits has even woken.
    """

    def __init__(self, path: Path) -> None:
        self._door = Path(f"{path}.door").open("ab")  # noqa: SIM115 - open as long as the lock is
        self._room = Path(f"{path}.lock").open("ab")  # noqa: SIM115

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it or waits for it."""
        if fcntl is not None:
            try:
                fcntl.flock(self._door, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            try:
                fcntl.flock(self._room, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            finally:
                fcntl.flock(self._door, fcntl.LOCK_UN)
        return True

    def acquire(self) -> None:
        """Wait for the lock. Raises OSError where the file system has no locks."""
        if fcntl is not None:
            fcntl.flock(self._door, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._room, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._door, fcntl.LOCK_UN)

    def release(self) -> None:
        """Let the next one in."""
        if fcntl is not None:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files, which also releases."""
        self._door.close()
        self._room.close()
