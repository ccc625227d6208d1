"""The bridge's journal: every id that it gave away.

``journal.jsonl`` has a line for each, ``keys.jsonl`` one for each change to a key.
"""

from datetime import UTC, datetime
from typing import Any, Literal

import attrs

Outcome = Literal["job", "schema", "timeout"]


@attrs.frozen(kw_only=True)
class JournalEntry:
    """One id that the server gave away.

    Attributes:
        task_id: The id.
        key: The first 8 characters of the key, which are no secret.
        client_id: The client row of the job, as in the answer.
        created_at: When.
        outcome: "job" when a job was made and is paid for; otherwise what refused it after the id was used up.
        model_name: What was to be trained.
        seed: The seed that the node gets.
    """

    task_id: int
    key: str
    client_id: int
    created_at: datetime
    outcome: Outcome
    model_name: str
    seed: int

    @property
    def accepted(self) -> bool:
        """Whether a job was made, and is paid for."""
        return self.outcome == "job"

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as the control plane shows it."""
        values = attrs.asdict(self)
        return {**values, "created_at": self.created_at.isoformat(), "accepted": self.accepted}


def as_datetime(wall: float) -> datetime:
    """Return ``wall``, seconds since 1970, as an aware UTC datetime."""
    return datetime.fromtimestamp(wall, UTC)
