"""Holds what a ledger has of money against the service's own list: to the wei, and in both directions."""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from crynux_async.backends.base import Backend, ListsPayments, Payment, Task
from crynux_async.errors import NotFoundError, UsageError
from crynux_async.ledgers.base import JobFilter, Ledger, StepRow, TaskRow
from crynux_async.supervision.tasks import action_of


@attrs.frozen(kw_only=True)
class Mismatch:
    """A try whose cost in the ledger is not what the service's list says.

    Attributes:
        job_id: The job.
        task_id: Its task.
        known: Wei that it has cost by the ledger.
        listed: Wei that are gone by the list.
    """

    job_id: str
    task_id: str
    known: int
    listed: int


@attrs.frozen(kw_only=True)
class Audit:
    """What holding a ledger against the service's list has shown.

    Attributes:
        spent: Wei that are gone for tries of the ledger, by the list.
        held: Wei of those that belong to tries that have not ended, or whose end the ledger does not know.
        mismatches: Tries of which ledger and list say different things.
        unlisted: Tasks of the ledger that the list does not have; it may be seconds late.
        orphans: Payments for tasks that this library has made and this ledger does not know: ``session.attach`` adopts
            one.
        foreign: Payments for tasks of other programs, and for those that the service has deleted.
    """

    spent: int
    held: int
    mismatches: tuple[Mismatch, ...]
    unlisted: tuple[str, ...]
    orphans: tuple[Payment, ...]
    foreign: tuple[Payment, ...]

    @property
    def adds_up(self) -> bool:
        """Whether nothing is left to be explained."""
        return not (self.mismatches or self.unlisted or self.orphans)


@attrs.frozen(kw_only=True)
class KnownTry:
    """A try as the ledger has it.

    Attributes:
        job_id: The job.
        task_ids: All tasks that may have been made for it, the first one first.
        certain: Those of them that were certainly made.
        spent: What it has cost, in wei, or None while that is not known.
    """

    job_id: str
    task_ids: Sequence[str]
    certain: Sequence[str]
    spent: int | None


async def audit(backend: Backend, key_id: str, ledger: Ledger) -> Audit:
    """Hold everything that a ledger has of a credential against the service's list.

    Args:
        backend: The service.
        key_id: The credential's fingerprint.
        ledger: The ledger.

    Raises:
        UsageError: The service has no such list.
        BackendError: It did not answer.
        LedgerError: The ledger cannot be read.
    """
    if not isinstance(backend, ListsPayments):
        raise UsageError(f"{backend.name} lists no payments, so there is nothing to hold the ledger against")
    # The list first: what is made after it was read is in the ledger and not missed in the list.
    payments = {payment.task_id: payment for payment in await backend.payments()}
    tries = await _known_tries(backend, backend.name, key_id, ledger)
    found = compare(tries, payments)
    mine = {task_id for known in tries for task_id in known.task_ids}
    orphans: list[Payment] = []
    foreign: list[Payment] = []
    for payment in payments.values():
        if payment.task_id not in mine:
            (orphans if await _is_own(backend, payment.task_id) else foreign).append(payment)
    return attrs.evolve(found, orphans=tuple(orphans), foreign=tuple(foreign))


def compare(tries: Iterable[KnownTry], payments: Mapping[str, Payment]) -> Audit:
    """Return what tries and payments say of each other; nothing of payments that no try knows."""
    spent = held = 0
    mismatches, unlisted = [], []
    for known in tries:
        missing = [task_id for task_id in known.certain if task_id not in payments]
        gone = sum(payments[task_id].gone for task_id in known.task_ids if task_id in payments)
        unlisted += missing
        spent += gone
        if known.spent is None:
            held += gone
        elif known.spent != gone and not missing:
            task_id = known.task_ids[0]
            mismatches.append(Mismatch(job_id=known.job_id, task_id=task_id, known=known.spent, listed=gone))
    return Audit(spent=spent, held=held, mismatches=tuple(mismatches), unlisted=tuple(unlisted), orphans=(), foreign=())


async def _known_tries(service: ListsPayments, name: str, key_id: str, ledger: Ledger) -> list[KnownTry]:
    rows = await ledger.jobs(JobFilter(backend=name))
    job_ids = [row.job_id for row in rows if row.key_id in ("", key_id)]
    steps: dict[tuple[str, int], list[StepRow]] = {}
    for step in await ledger.steps(job_ids):
        steps.setdefault((step.job_id, step.try_number), []).append(step)
    made = [row for row in await ledger.tasks(job_ids) if row.member == 0]
    return [_known_try(service, row, steps.get((row.job_id, row.try_number), ())) for row in made]


def _known_try(service: ListsPayments, row: TaskRow, steps: Sequence[StepRow]) -> KnownTry:
    task = Task(
        task_id=row.task_id,
        job_id=row.job_id,
        try_number=row.try_number,
        actions=tuple(map(action_of, steps)),
    )
    # A step that is stored and not done may have been done all the same, by a process that died over it.
    done = attrs.evolve(task, actions=[action for action in task.actions if action.done_at and not action.outcome])
    return KnownTry(job_id=row.job_id, task_ids=service.task_ids(task), certain=service.task_ids(done), spent=row.spent)


async def _is_own(service: ListsPayments, task_id: str) -> bool:
    try:
        return await service.is_own(task_id)
    except NotFoundError:
        return False
