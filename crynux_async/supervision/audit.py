"""Holds what a ledger has of money against the service's own list: to the wei, and in both directions."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from crynux_async.backends.base import Backend, ListsPayments, OwnTask, Payment, Task
from crynux_async.errors import NotFoundError, UsageError
from crynux_async.ledgers.base import JobFilter, Ledger, StepRow, TaskRow
from crynux_async.supervision.tasks import action_of

_ASKED_AT_ONCE = 16


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
class Orphan:
    """Something that this library has paid for and that the ledger does not know.

    Attributes:
        task: What the service shows of it; ``session.attach(task.task_id, config=task.config)`` adopts it.
        payments: What was paid for it, and for tasks that only check it.
    """

    task: OwnTask
    payments: tuple[Payment, ...]

    @property
    def task_id(self) -> str:
        """What to attach."""
        return self.task.task_id

    @property
    def paid(self) -> int:
        """Wei that were paid, >= 0."""
        return sum(payment.paid for payment in self.payments)

    @property
    def refunded(self) -> int:
        """Wei that came back, >= 0."""
        return sum(payment.refunded for payment in self.payments)

    @property
    def gone(self) -> int:
        """Wei that were paid and have not come back (yet)."""
        return self.paid - self.refunded

    @property
    def at(self) -> datetime:
        """When it was first paid for, aware UTC."""
        return min(payment.at for payment in self.payments)


@attrs.frozen(kw_only=True)
class Audit:
    """What holding a ledger against the service's list has shown.

    Attributes:
        spent: Wei that are gone for tries of the ledger, by the list.
        held: Wei of those that belong to tries that have not ended, or whose end the ledger does not know.
        mismatches: Tries of which ledger and list say different things.
        unlisted: Tasks of the ledger that the list does not have; it may be seconds late.
        orphans: What this library has made and this ledger does not know, but for what has ended and was refunded.
        foreign: Payments for tasks of other programs, and for those that the service has deleted.
    """

    spent: int
    held: int
    mismatches: tuple[Mismatch, ...]
    unlisted: tuple[str, ...]
    orphans: tuple[Orphan, ...]
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
        raise UsageError(f"{backend.name} lists no payments, so there is nothing to compare the ledger with")
    # The list first: what is made after it was read is in the ledger and not missed in the list.
    payments = {payment.task_id: payment for payment in await backend.payments()}
    tries, mine = await _known(backend, backend.name, key_id, ledger)
    orphans, foreign = await _sorted_out(backend, [each for each in payments.values() if each.task_id not in mine])
    return attrs.evolve(compare(tries, payments), orphans=tuple(orphans), foreign=tuple(foreign))


async def _sorted_out(service: ListsPayments, unknown: Sequence[Payment]) -> tuple[list[Orphan], list[Payment]]:
    """Return payments that no ledger row explains: those for this library's tasks, and all others."""
    own: dict[str, tuple[OwnTask, list[Payment]]] = {}
    foreign: list[Payment] = []
    for start in range(0, len(unknown), _ASKED_AT_ONCE):
        some = unknown[start : start + _ASKED_AT_ONCE]
        found = await asyncio.gather(*(_recognised(service, payment.task_id) for payment in some))
        for payment, task in zip(some, found, strict=True):
            if task is None:
                foreign.append(payment)
            else:
                own.setdefault(task.task_id, (task, []))[1].append(payment)
    orphans = [Orphan(task=task, payments=tuple(paid)) for task, paid in own.values()]
    # What has failed and was refunded is nobody's loss: nothing is left to adopt or to explain.
    return [orphan for orphan in orphans if orphan.task.can_have_model or orphan.gone], foreign


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


async def _known(service: ListsPayments, name: str, key_id: str, ledger: Ledger) -> tuple[list[KnownTry], set[str]]:
    """Return the tries that a ledger has, and every task that is theirs or may be."""
    rows = [row for row in await ledger.jobs(JobFilter(backend=name)) if row.key_id in ("", key_id)]
    job_ids = [row.job_id for row in rows]
    steps: dict[tuple[str, int], list[StepRow]] = {}
    for step in await ledger.steps(job_ids):
        steps.setdefault((step.job_id, step.try_number), []).append(step)
    made = [row for row in await ledger.tasks(job_ids) if row.member == 0]
    tries = [_known_try(service, row, steps.get((row.job_id, row.try_number), ())) for row in made]
    # A create whose answer was lost has no task in the ledger, and is no orphan all the same.
    intended = {service.first_task_id(row.job_id, number) for row in rows for number in range(1, row.tries + 1)}
    return tries, intended.union(*(known.task_ids for known in tries))


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


async def _recognised(service: ListsPayments, task_id: str) -> OwnTask | None:
    try:
        return await service.recognise(task_id)
    except NotFoundError:
        return None
