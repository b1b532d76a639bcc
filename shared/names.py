"""Every name that two places must agree on: functions, Durable events, event types, containers and queues."""

from __future__ import annotations

from enum import StrEnum

# Durable functions
ORCHESTRATOR_RUN = "run"
ORCHESTRATOR_PIPELINE = "pipeline"
ORCHESTRATOR_ITEMS = "items"
ORCHESTRATOR_AGENT = "agent"
ORCHESTRATOR_TOOL_CALL = "tool_call"
ACTIVITY_BEGIN_RUN = "begin_run"
ACTIVITY_RUN_STEP = "run_step"
ACTIVITY_OPEN_ITEMS = "open_items"
ACTIVITY_RUN_ITEM = "run_item"
ACTIVITY_CLOSE_ITEMS = "close_items"
ACTIVITY_TAKE_TURN = "take_turn"
ACTIVITY_CALL_TOOL = "call_tool"
ACTIVITY_SETTLE = "settle"
ACTIVITY_START_CHILD = "start_child"
ACTIVITY_CANCEL_CHILD = "cancel_child"
ACTIVITY_END_CHILD = "end_child"

# Timer functions
TIMER_RECONCILE = "reconcile"
TIMER_RETENTION = "retention"
TIMER_SCHEDULE = "schedule"
TIMER_SWEEP_NOTIFICATIONS = "sweep_notifications"
TIMER_SWEEP_FILE_SYNC = "sweep_file_sync"
TIMER_OPERATOR_JOBS = "operator_jobs"

# Queue functions
QUEUE_FUNCTION_RUN_REQUESTS = "run_requests"
QUEUE_FUNCTION_NOTIFICATIONS = "notifications"
QUEUE_FUNCTION_FILE_SYNC = "file_sync_bursts"

# Blob functions
BLOB_FILE_SYNC = "file_sync"

# The Durable event that wakes a run's orchestrator after an accepted cancel
EVENT_CANCEL = "cancel"

# What activities and orchestrators tell each other beside statuses
OUTCOME_RETRY = "retry"
"""Call the activity again, after `after_seconds`."""
OUTCOME_BRANCH_CANCELLED = "branch_cancelled"
"""This execution, or one above it, was cancelled alone: the run goes on without it."""
OUTCOME_STORE_AWAY = "store_away"
"""Call the activity again when the store is back: it could not even tell what became of its operation."""
OUTCOME_TURN = "turn"
"""An agent's turn was taken and is not its last: do its `calls`, then take the next."""
OUTCOME_GRACE_EXPIRED = "grace_expired"
"""The grace timer fired before the pipeline ended."""

OUTCOME_LOST = "lost"
"""Of a receipt: its run is gone, and nobody knows how it ended."""

# Documents with one fixed id in each workflow's, group's or person's partition
WORKFLOW_ID = "workflow"
LOCK_ID = "lock"
TOMBSTONE_ID = "deleted"
SECRETS_ID = "secrets"
GROUP_ID = "group"
PROFILE_ID = "profile"
KEYS_ID = "keys"
RESERVED_IDS = frozenset({WORKFLOW_ID, LOCK_ID, TOMBSTONE_ID, SECRETS_ID, GROUP_ID})

REMOVING = "removing"
"""The field of a run that is being removed because of its age: no run is resumed from it any more."""

# Kinds of side effects
ARTIFACT = "artifact"
NOTIFICATION = "notification"
DOCUMENT = "document"

QUEUE_NOTIFICATIONS = "notifications"
QUEUE_FILE_SYNC = "file-sync"
QUEUE_RUN_REQUESTS = "run-requests"
QUEUES = (QUEUE_NOTIFICATIONS, QUEUE_FILE_SYNC, QUEUE_RUN_REQUESTS)
"""Every queue, for who makes them."""

CONTAINER_FILE_SYNC = "filesync"
"""The blob container that people drop files into."""


RUN_WORKFLOW = "run_workflow"
"""The tool with which an agent runs another workflow; its call is a child run."""
CHILD_SUFFIX = "r"
"""The last part of the path of a node's child run."""


class DocumentType(StrEnum):
    """The `type` of a stored document."""

    WORKFLOW = "workflow"
    LOCK = "lock"
    RUN = "run"
    EXECUTION = "execution"
    EVENT = "event"
    RECEIPT = "receipt"
    TOMBSTONE = "tombstone"
    """Says that the workflow was deleted, until nothing of it is left."""
    DELIVERY = "delivery"
    """A notification to one webhook: what is to be sent, and how far that got."""
    REJECTED = "rejected"
    """A message that could not be worked on, with the reason."""
    SECRETS = "secrets"
    """What a workflow's webhooks are signed with, and hashes of its senders' tokens. Never leaves the domain."""
    FILE = "file"
    """A file that was dropped for the workflow: the version that arrived last."""
    GROUP = "group"
    """A group: its name, and its members with their roles."""
    KEYS = "keys"
    """The machines' keys of a scope, as hashes. Never leaves the domain."""
    KEY_EVENT = "key_event"
    """A key was made, used or revoked."""
    PROFILE = "profile"
    """What a person chose: their active group."""
    OPERATOR_EVENT = "operator_event"
    """What an operator did."""
    OPERATOR_JOB = "operator_job"
    """A cancel of more runs than one request takes."""
    OPERATOR_RESULTS = "operator_results"
    """What became of some of a job's runs."""
    BURST = "burst"
    """There while such files wait for their run."""


class EventType(StrEnum):
    """The type of an event of a run."""

    RUN_QUEUED = "run.queued"
    RUN_STARTED = "run.started"
    RUN_CANCELLING = "run.cancelling"
    RUN_CANCELLED = "run.cancelled"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_SKIPPED = "run.skipped"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_CANCELLING = "execution.cancelling"
    EXECUTION_CANCELLED = "execution.cancelled"
    EXECUTION_OUTPUT = "execution.output"
    LOCK_RENEWED = "lock.renewed"
    WORKFLOW_DISABLED = "workflow.disabled"
    REPAIR_STARTED = "repair.started"
    REPAIR_CANCELLED = "repair.cancelled"
    REPAIR_ENDED = "repair.ended"
    REPAIR_SETTLED = "repair.settled"
    REPAIR_REAPED = "repair.reaped"
    REPAIR_FREED = "repair.freed"
    REPAIR_RECEIPT = "repair.receipt"
    KEY_CREATED = "key.created"
    KEY_USED = "key.used"
    KEY_REVOKED = "key.revoked"
    OPERATOR_CANCELLED = "operator.cancelled"
    """Of a run: an operator cancelled it."""
    OPERATOR_CANCEL_ORDERED = "operator.cancel_ordered"
    """Of the operators' own record, like those below: a cancel of many runs was asked for."""
    OPERATOR_JOB_STOPPED = "operator.job_stopped"
    OPERATOR_LISTED = "operator.listed"
    OPERATOR_READ_TRAIL = "operator.read_trail"
    OPERATOR_EXPORTED = "operator.exported"


class Kind(StrEnum):
    """What a node of a run's tree is."""

    STEP = "step"
    ITEM = "item"
    AGENT = "agent"
    """A sub-agent: an agent that is a step is a step."""
    MODEL_CALL = "model_call"
    TOOL_CALL = "tool_call"
    CHILD_RUN = "child_run"


class TriggerKind(StrEnum):
    """What started a run."""

    MANUAL = "manual"
    """A person or a system, over HTTP."""
    SCHEDULE = "schedule"
    """A slot of the workflow's schedule."""
    FILE_SYNC = "file_sync"
    """Files that arrived or changed."""
    CHILD_RUN = "child_run"
    """A step or tool of another run."""
    REQUEST = "request"
    """A message on the queue of run requests."""


class CancelOutcome(StrEnum):
    """How an operation that was in flight at the accept ended."""

    FINISHED = "finished"
    """It completed (or failed) by itself before the stop reached it."""
    STOPPED = "stopped"
    """It was stopped."""
    LOST = "lost"
    """Its process was gone: its heartbeat expired."""
    ABANDONED = "abandoned"
    """It had not stopped when the grace ran out or force was asked."""


class CancelSource(StrEnum):
    """Where a cancel came from."""

    API = "api"
    PAGE = "page"
    CLI = "cli"
    CLIENT = "client"
    ADMIN = "admin"
    PARENT = "parent"
    PORTAL = "portal"
    RECONCILE = "reconcile"
