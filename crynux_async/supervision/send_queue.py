"""The jobs that wait to be sent, in the order in which they were queued."""

from collections import deque

from crynux_async.states import STAGES, Stage
from crynux_async.supervision.record import Record


class SendQueue:
    """A queue whose jobs keep their places: one that comes back goes where it was.

    A job that is given up, or lost to another process, stays until it comes to the front. A job's ``queue_number`` says
    which entry is its own: one that was taken out and queued anew is never sent for its old entry.
    """

    def __init__(self) -> None:
        # Side by side, because a hundred thousand pairs take as many tuples of 56 bytes.
        self._numbers: deque[int] = deque()
        self._records: deque[Record] = deque()
        self._queued = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, record: Record) -> None:
        """Put a job at the end."""
        self._queued += 1
        record.queue_number = self._queued
        self._numbers.append(self._queued)
        self._records.append(record)

    def put_back(self, record: Record) -> None:
        """Put a job that was taken and not sent back to its place."""
        # From the front, because whatever comes back was taken from there a moment ago.
        index = 0
        while index < len(self._numbers) and self._numbers[index] < record.queue_number:
            index += 1
        self._numbers.insert(index, record.queue_number)
        self._records.insert(index, record)

    def first(self) -> Record | None:
        """Return the next job to send, dropping those that are not to be sent any more; None where there is none."""
        while self._numbers and not _is_waiting(self._numbers[0], self._records[0]):
            self._drop_first()
        return self._records[0] if self._records else None

    def take_first(self) -> Record | None:
        """Take the next job to send out of the queue, or None where there is none."""
        record = self.first()
        if record is not None:
            self._drop_first()
        return record

    @property
    def next_position(self) -> int:
        """How many jobs would go before one that is added now, >= 0; those given up meanwhile are counted."""
        return self._queued + 1 - self._numbers[0] if self._numbers else 0

    def position(self, record: Record) -> int:
        """Return how many jobs go before this one, >= 0; those given up meanwhile are counted."""
        return max(0, record.queue_number - self._numbers[0]) if self._numbers else 0

    def _drop_first(self) -> None:
        self._numbers.popleft()
        self._records.popleft()


def _is_waiting(number: int, record: Record) -> bool:
    return record.is_ours and record.queue_number == number and STAGES[record.state] is Stage.SUBMIT
