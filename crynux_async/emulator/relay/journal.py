"""What an emulated relay tells of its tasks to whoever judges a client by them."""

from datetime import UTC, datetime
from typing import Any

import attrs

from crynux_async.emulator.relay.tasks import Task


@attrs.frozen(kw_only=True)
class JournalEntry:
    """One task that was created, whether its creator heard of it or not.

    Attributes:
        sequence: Its number, from 1.
        commitment: What it is called.
        creator: The address that pays.
        nonce: The creator's part of the commitment.
        task_id: What the creator has revealed, or "".
        fee: Wei.
        spent: Wei that are gone for good.
        created_at: When.
        status: Where it is, the relay's number.
        abort_reason: Why it was aborted, the relay's number.
        selected_node: The address of its node, or "".
        args: Its arguments as normalised JSON.
    """

    sequence: int
    commitment: str
    creator: str
    nonce: str
    task_id: str
    fee: int
    spent: int
    created_at: datetime
    status: int
    abort_reason: int
    selected_node: str
    args: str

    @classmethod
    def of(cls, task: Task) -> "JournalEntry":
        """Return the entry of a task as it is now."""
        return cls(
            sequence=task.sequence,
            commitment=task.commitment,
            creator=task.creator,
            nonce=task.nonce,
            task_id=task.task_id,
            fee=task.fee,
            spent=task.spent,
            created_at=datetime.fromtimestamp(task.created, UTC),
            status=int(task.status),
            abort_reason=int(task.abort_reason),
            selected_node=task.selected_node,
            args=task.args,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as the control plane shows it; wei are texts."""
        values = attrs.asdict(self)
        return {
            **values,
            "created_at": self.created_at.isoformat(),
            # Many readers of JSON round integers above 2^53, and a fee is larger.
            "fee": str(self.fee),
            "spent": str(self.spent),
        }
