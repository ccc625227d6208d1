"""Jobs that this session does not hold and on which somebody here has a handle."""

from weakref import WeakValueDictionary

from crynux_async.ledgers.base import JobRow
from crynux_async.supervision.record import OnlookerRecord, Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.rows import record_from_row, restore


class Onlookers:
    """One record for each job of others that anybody here has a handle on; it goes when the last handle goes.

    Args:
        register: Has the jobs that this session holds or has held.
    """

    def __init__(self, register: JobRegister) -> None:
        self._register = register
        self._records: WeakValueDictionary[str, OnlookerRecord] = WeakValueDictionary()

    def get(self, job_id: str) -> Record | None:
        """Return the record of a job, held here or not, or None."""
        return self._register.get(job_id) or self._records.get(job_id)

    def enter(self, row: JobRow) -> Record:
        """Return the record of a job, brought up to date with its row where another may have changed it."""
        known = self.get(row.job_id)
        if known is not None:
            self.refresh(known, row)
            return known
        record = record_from_row(row, is_ours=False)
        assert isinstance(record, OnlookerRecord)
        self._records[row.job_id] = record
        return record

    def refresh(self, record: Record, row: JobRow) -> None:
        """Bring a record up to date with its row, unless this session knows better."""
        if not record.is_ours:
            self._register.replace(record, lambda: restore(record, row))

    def awaited(self) -> list[Record]:
        """Return the records that this session has never held and for which somebody waits."""
        return [record for record in self._records.values() if not record.is_ours and record.is_awaited]
