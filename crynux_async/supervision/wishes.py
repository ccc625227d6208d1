"""What is done with jobs of others: take them where they are free, else ask whoever has them.

An onlooker writes nothing about another's job but a wish. Its owner hears wishes every few seconds and carries them
out; where the wisher waits for an answer, that is a note under the number of the wish. A job that nobody holds, as most
that have ended, is taken by whoever wishes something of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from crynux_async import errors
from crynux_async.errors import BackendError, CrynuxError, UsageError
from crynux_async.ledgers.base import JobChange, Ledger
from crynux_async.states import FOLLOWED, JobState, Signal
from crynux_async.supervision.abilities import Abilities
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.driving import HandOn, Spawn
from crynux_async.supervision.fetcher import Fetcher
from crynux_async.supervision.ledger_writer import ANSWERS, LedgerWriter
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.take_over import TakeOver

if TYPE_CHECKING:
    from crynux_async.ledgers.base import WishRow

ABANDON = "abandon"
"""The kind of a wish: give the job up."""

CANCEL = "cancel"
"""The kind of a wish: cancel the job's task, and say what that means for the money."""

LET_GO = "let go"
"""The kind of a wish: give the job back as soon as nothing is done with it: the wisher wants its archive."""

_OTHER_TRY = "the job has another try by now, and nobody has wished to cancel that one"


class Wishes:
    """Acts on jobs of others, and grants what others wish of this session's.

    Args:
        ledger: Where the jobs are.
        register: Learns what was decided.
        onlookers: Has the jobs of others.
        writer: Stores wishes.
        take_over: Takes jobs that nobody holds.
        submitter: Knows what is being sent.
        fetcher: Knows what is being fetched.
        abilities: Cancels jobs.
        accounts: Knows what the end of a job means for money.
        spawn: Starts a task that outlives its caller.
        hand_on: Called with each job that was given up.
    """

    def __init__(
        self,
        ledger: Ledger,
        register: JobRegister,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        take_over: TakeOver,
        submitter: Submitter,
        fetcher: Fetcher,
        abilities: Abilities,
        accounts: Accounts,
        spawn: Spawn,
        hand_on: HandOn,
    ) -> None:
        self._ledger = ledger
        self._register = register
        self._onlookers = onlookers
        self._writer = writer
        self._take_over = take_over
        self._submitter = submitter
        self._fetcher = fetcher
        self._abilities = abilities
        self._accounts = accounts
        self._spawn = spawn
        self._hand_on = hand_on
        self._cancelling: set[int] = set()

    @property
    def grants(self) -> "dict[str, Callable[[Record, WishRow], Awaitable[None]]]":
        """How each kind of wish is granted."""
        return {ABANDON: self._grant_abandon, CANCEL: self._grant_cancel, LET_GO: self._grant_let_go}

    def give_up(self, record: Record) -> None:
        """Give a job of this session up.

        On a budget, what its task may cost counts as spent, unless the service tells later what came back.
        """
        if record.task_id is not None and record.state in FOLLOWED:
            end = self._accounts.given_up(record.task_id)
            if end.is_open or record.filing.budget is not None:
                self._writer.task_ended(record, end)
        self._register.learn(record, Signal.ABANDON)
        self._hand_on(record)

    async def abandon(self, record: Record) -> None:
        """Give another's job up: here where it is free, else by its owner.

        Raises:
            LedgerError: The wish could not be stored.
        """
        if await self._take_over.take(record):
            self.give_up(record)
        else:
            await self._writer.wish(record.job_id, ABANDON, try_number=record.tries)

    async def cancel(self, record: Record) -> str:
        """Cancel another's job: here where it is free, else by its owner; return what that means for the money.

        Raises:
            UsageError: The service cannot cancel tasks, or the job has none that runs.
            BackendError: The task cannot be cancelled (any more).
            LedgerError: It could not be asked for.
        """
        seen = record.tries
        await self._onlookers.catch_up((record,))
        if record.tries != seen:
            raise UsageError(_OTHER_TRY, job_id=record.job_id, task_id=record.task_id)
        self._abilities.check_can_cancel(record)
        if await self._take_over.take(record):
            return await self._abilities.cancel(record)
        wish = await self._writer.wish(record.job_id, CANCEL, try_number=record.tries)
        heard = 0
        while (answer := await self._ledger.note(ANSWERS, str(wish.number))) is None:
            if await self._take_over.take(record):  # whoever had it has ended without an answer
                await self._granted(record, wish)
                return await self._abilities.cancel(record)
            heard = await self._onlookers.next_write(heard)
        await self._writer.answer(wish, None)
        await self._onlookers.catch_up((record,))
        return _told(answer, record)

    async def take_to_fetch(self, record: Record) -> None:
        """Wait until another's job, which has a model, is this session's.

        Its owner finishes a transfer that is under way; then it gives the job back, and the file that it has brought
        is found in its place.

        Raises:
            LedgerError: It could not be asked for.
        """
        asked, heard = 0, 0
        while not record.is_ours:
            holder = await self._ledger.holder(record.job_id)
            if holder is None:
                await self._take_over.take(record)
                continue
            # Each new owner is asked once: wishes are kept, and hundreds of one kind would help nobody.
            if holder.fence.number != asked:
                await self._writer.wish(record.job_id, LET_GO)
                asked = holder.fence.number
            heard = await self._onlookers.next_write(heard)

    async def _grant_abandon(self, record: Record, wish: "WishRow") -> None:
        # Whoever gave up an earlier try said nothing of the one that runs now.
        if wish.arguments.get("try_number") == record.tries:
            self.give_up(record)
            # Before the wish goes: a process that dies between the two would have lost it.
            await self._writer.persist(self._writer.flush)
        await self._granted(record, wish)

    async def _grant_cancel(self, record: Record, wish: "WishRow") -> None:
        """Begin to cancel a job: the service's answer must not keep other wishes waiting."""
        if wish.number not in self._cancelling:
            self._cancelling.add(wish.number)
            self._spawn(self._cancel_for_another(record, wish))

    async def _cancel_for_another(self, record: Record, wish: "WishRow") -> None:
        try:
            if wish.arguments.get("try_number") != record.tries:
                raise UsageError(_OTHER_TRY)
            answer = {"said": await self._abilities.cancel(record)}
        except CrynuxError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        finally:
            self._cancelling.discard(wish.number)
        # What has become of the job first, so that whoever has the answer can read it; the grant last: a wish that is
        # granted without an answer would leave its wisher waiting.
        await self._writer.persist(self._writer.flush)
        await self._writer.answer(wish, answer)
        await self._granted(record, wish)

    async def _grant_let_go(self, record: Record, wish: "WishRow") -> None:
        """Give a job back, unless something is being done with it: then the wish waits for the end of that."""
        is_busy = self._fetcher.is_fetching(record) or self._submitter.is_under_way(record)
        if is_busy or record.state not in _FETCHABLE:
            return
        await self._granted(record, wish)
        await self._writer.let_go([record])

    async def _granted(self, record: Record, wish: "WishRow") -> None:
        await self._writer.change(JobChange(job_id=record.job_id, granted=(wish.number,)))


_FETCHABLE = frozenset({JobState.SUCCEEDED, JobState.DOWNLOADED})


def _told(answer: Mapping[str, Any], record: Record) -> str:
    """Return what an owner has said of a job that it cancelled for this session.

    Raises:
        UsageError, BackendError: It could not; in the owner's words.
    """
    if "said" in answer:
        return str(answer["said"])
    cls = getattr(errors, str(answer.get("error")), BackendError)
    if not issubclass(cls, BackendError | UsageError):
        cls = BackendError
    raise cls(str(answer.get("message", "")), job_id=record.job_id, task_id=record.task_id)
