"""The kinds of triggers that a definition may hold: each a strict shape.

A new kind is a class here, added to `AnyTrigger`, and its work in `event_triggers/`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, field_validator, model_validator

from shared.cron import check_cron, zone_of
from shared.documents import validate_name
from shared.steps import Strict


class ManualTrigger(Strict):
    """Started by people and systems only."""

    kind: Literal["manual"] = "manual"


class Every(Strict):
    """An interval."""

    value: int = Field(ge=1, le=100_000)
    unit: Literal["seconds", "minutes", "hours", "days"]

    @property
    def interval(self) -> timedelta:
        """As a duration. A day is 24 hours, whatever the clocks do."""
        return timedelta(**{self.unit: self.value})


class ScheduleTrigger(Strict):
    """Started at moments: `every` so often, or when `cron` says (in `time_zone`, UTC if none is given)."""

    kind: Literal["schedule"]
    every: Every | None = None
    cron: str | None = None
    time_zone: str | None = None

    @field_validator("cron")
    @classmethod
    def _cron_fires(cls, cron: str | None) -> str | None:
        if cron is not None:
            check_cron(cron)
        return cron

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, name: str | None) -> str | None:
        if name is not None:
            zone_of(name)
        return name

    @model_validator(mode="after")
    def _one_of(self) -> ScheduleTrigger:
        if (self.every is None) == (self.cron is None):
            raise ValueError("give either every or cron")
        if self.every is not None and self.time_zone is not None:
            raise ValueError("time_zone goes with cron: an interval is the same everywhere")
        return self


class FileSyncTrigger(Strict):
    """Started by files that arrive or change in the workflow's folder of the container `filesync`, one run a burst.

    `prefix`: only files whose path begins so. `run_when`: `changed` starts nothing for a new version of the bytes that a run
    was started for before; `always` does. `only_changed`: what the run's `file_sync` steps bring in, the files of the burst
    or all under their prefix. `debounce_seconds`: a burst is over when nothing has arrived for so long.
    """

    kind: Literal["file_sync"]
    prefix: str = Field(default="", max_length=299)
    run_when: Literal["changed", "always"] = "changed"
    only_changed: bool = True
    debounce_seconds: int = Field(default=5, ge=0, le=600)

    @field_validator("prefix")
    @classmethod
    def _begins_a_name(cls, prefix: str) -> str:
        validate_name(prefix + "x")
        return prefix


AnyTrigger = Annotated[ManualTrigger | ScheduleTrigger | FileSyncTrigger, Field(discriminator="kind")]
TRIGGER_KINDS = frozenset(
    get_args(trigger.model_fields["kind"].annotation)[0] for trigger in get_args(get_args(AnyTrigger)[0])
)
"""Every kind of trigger."""

_trigger_adapter: TypeAdapter[AnyTrigger] = TypeAdapter(AnyTrigger)


def parse_trigger(data: Any) -> AnyTrigger:
    """The trigger of a definition that was validated when it was saved."""
    return _trigger_adapter.validate_python(data)
