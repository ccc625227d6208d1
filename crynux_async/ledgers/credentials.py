"""Which jobs of a ledger still need an API key: results belong to the key that made the job."""

from crynux_async.ledgers.base import JobFilter, Ledger
from crynux_async.states import NEED_THE_CREDENTIAL


async def jobs_that_need(ledger: Ledger, key_id: str, backend: str) -> list[str]:
    """Return the ids of the jobs that are unfinished or not fetched, and that only this key can fetch.

    By whatever address a bridge was reached, the key tells whose a job is. A job that was attached by its number alone
    may be of any key, so it counts where it is at ``backend``.

    Args:
        ledger: An open ledger.
        key_id: The key's fingerprint (``Settings.key_id``).
        backend: The name of the service that the key is for; a bridge's is its address.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    rows = await ledger.jobs(JobFilter(states=NEED_THE_CREDENTIAL))
    return [row.job_id for row in rows if row.key_id == key_id or (not row.key_id and row.backend == backend)]
