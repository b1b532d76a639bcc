"""For tests of a tool: call it as a run would, without a run.

async def test_a_note_is_saved(tmp_path):
    run = ToolRun(tmp_path)
    assert await run.call("save_note", title="Monday") == "saved"
    assert run.effects == [("note", "Monday", True)]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.blobs import LocalBlobs
from shared.cancellation import CancelToken, set_current
from shared.documents import Documents
from shared.errors import Cancellation
from shared.names import ARTIFACT, NOTIFICATION
from shared.side_effects import Effect, SideEffect, SideEffects
from shared.tools import registry
from shared.tools.registry import ToolContext
from shared.web import FetchLimits


class ToolRun:
    """A run that only calls tools. `directory` holds its `documents`; pages on this machine may be fetched.

    `cancel()` cancels it: what is at work goes on until its next checkpoint, or until the test cancels its task.
    """

    def __init__(self, directory: Path) -> None:
        self.documents = Documents(LocalBlobs(directory), "user:test")
        self.token = CancelToken()
        self.published: dict[str, str | bytes] = {}
        """What was written or told, by path or subject."""
        self._effects: Sequence[Effect] = ()
        self._recorder: SideEffects | None = None

    @property
    def effects(self) -> list[tuple[str, str, bool]]:
        """The side effects on record, as (kind, what, whether done)."""
        return [(one["kind"], one["what"], one["done"]) for one in self._effects]

    @property
    def key(self) -> str:
        """What `context.key` is."""
        return "test:s01.c0"

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """Call a registered tool with JSON arguments. Answers and raises as in a run."""
        set_current(self.token)
        return await registry.get(tool).call(arguments, self.context())

    def context(self) -> ToolContext:
        """What a tool is given. Call it on the event loop."""
        self._recorder = self._recorder or SideEffects(self._record, self.key, 1)
        return ToolContext(self.documents, self, FetchLimits(allow_private=True))

    def cancel(self) -> None:
        """Cancel it, as a person does."""
        self.token.cancel(Cancellation("test"))

    async def _record(self, effects: Sequence[Effect], _new: bool) -> None:
        self._effects = effects

    def side_effect(self, kind: str, what: str) -> SideEffect:
        """What `context.side_effect` does."""
        assert self._recorder is not None
        return self._recorder.open(kind, what)

    async def write_artifact(self, path: str, content: str | bytes) -> dict[str, Any]:
        """What `context.write_artifact` does."""
        async with self.side_effect(ARTIFACT, path):
            self.published[path] = content
        return {"path": path, "size": len(content)}

    async def notify(self, subject: str, message: str) -> dict[str, Any]:
        """What `context.notify` does."""
        async with self.side_effect(NOTIFICATION, subject):
            self.published[subject] = message
        return {"subject": subject, "message": message}
