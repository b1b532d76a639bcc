"""Truestop: AI workflow runs whose Cancel really stops the work. This package is the client and the command line.

    import truestop

    with truestop.Client("https://truestop.example.org", token="…") as client:
        run = client.start(workflow_id, {"url": "https://example.org"})
        for event in run.events():
            print(event.type)
        print(run.result())

`AsyncClient` has the same names. Closing or interrupting a client cancels nothing; `run.cancel()` does.
"""

from importlib.metadata import version

from truestop._async.client import AsyncClient
from truestop._async.run import AsyncRun
from truestop._sync.client import Client
from truestop._sync.run import Run
from truestop.errors import (
    AlreadyFinished,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NothingToResume,
    NotSignedIn,
    Problem,
    RateLimited,
    RevisionChanged,
    RunActive,
    RunCancelled,
    RunFailed,
    ServerFault,
    TooLarge,
    TruestopError,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    WorkflowBusy,
)
from truestop.models import (
    Artifact,
    CancelResult,
    Cancels,
    Change,
    DocumentInfo,
    Event,
    Execution,
    Failure,
    Group,
    InFlight,
    Key,
    Member,
    NarrowReceipt,
    Person,
    Receipt,
    RunState,
    SideEffect,
    TreeNode,
    TreeReceipt,
    Workflow,
)

__version__ = version("truestop")
__all__ = [
    "AlreadyFinished",
    "Artifact",
    "AsyncClient",
    "AsyncRun",
    "CancelResult",
    "Cancels",
    "Change",
    "Client",
    "Conflict",
    "DocumentInfo",
    "Event",
    "Execution",
    "Failure",
    "Forbidden",
    "Group",
    "InFlight",
    "Invalid",
    "Key",
    "Member",
    "NarrowReceipt",
    "NotFound",
    "NotSignedIn",
    "NothingToResume",
    "Person",
    "Problem",
    "RateLimited",
    "Receipt",
    "RevisionChanged",
    "Run",
    "RunActive",
    "RunCancelled",
    "RunFailed",
    "RunState",
    "ServerFault",
    "SideEffect",
    "TooLarge",
    "TreeNode",
    "TreeReceipt",
    "TruestopError",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "Workflow",
    "WorkflowBusy",
]
