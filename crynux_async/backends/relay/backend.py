"""The relay as a ``Backend``: tries are read, decided upon and acted on, all with the signature of one wallet."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from types import MappingProxyType

import attrs

from crynux_async.backends.base import (
    Action,
    CreatedTask,
    Finding,
    Habits,
    Look,
    LostCreate,
    Order,
    OwnTask,
    Payment,
    ResultStream,
    Seen,
    Task,
    Validator,
)
from crynux_async.backends.relay.account import RelayAccount
from crynux_async.backends.relay.actions import Actions
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.backends.relay.client import RefusedError, RelayClient
from crynux_async.backends.relay.ids import GROUP_SIZE, TaskIds
from crynux_async.backends.relay.outlook import Outlook
from crynux_async.backends.relay.own_tasks import OwnTasks
from crynux_async.backends.relay.run_reader import RunReader, SeenRun
from crynux_async.backends.relay.steps import (
    LOST_REPEATS,
    REPEATS,
    End,
    Kind,
    Run,
    Stage,
    again_after,
    failure,
    first_look_after,
    next_step,
    phases_of,
    progress,
    spread,
)
from crynux_async.backends.relay.tasks import ENDED, AbortReason, RelayTask, Status
from crynux_async.backends.relay.tries import action_of, last_run, runs_of, stored_action
from crynux_async.backends.relay.wire import CreateRequest, PayloadError, is_commitment
from crynux_async.errors import ConfigError, NotFoundError, Problem, RejectedError, UsageError
from crynux_async.money import to_cnx, wei_of
from crynux_async.settings import Settings
from crynux_async.signing import Wallet
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.lengths import most_rounds
from crynux_async.training.service import ServiceFacts

LEASE = 15.0
"""Seconds for which a session holds its jobs: whoever takes over must be in time to validate."""

_RUN = "run"
_SOON = 1.0
_MOST_IMAGES = 64  # a relay that has an answer for every number would never come to an end
_SEEN: Mapping[End | None, Seen] = MappingProxyType(
    {None: Seen.RUNNING, End.SUCCEEDED: Seen.SUCCEEDED, End.FAILED: Seen.FAILED, End.CANCELLED: Seen.CANCELLED}
)


class RelayBackend:
    """The relay at ``settings.base_url``. Must be made inside a running event loop.

    It has steps (``Stepped``), cancels (``Cancels``), hands out validation images (``HasImages``), knows why a task
    failed (``TellsReasons``), what it costs (``HasPrices``) and did cost after all (``RefundsLate``), what was ever
    paid (``ListsPayments``), what the network is like (``HasOutlook``), and where the task of a lost create is
    (``FindsLostCreates``).

    Args:
        settings: Address of the relay, fee of each task, timeouts, proxy and connections; an API key is not used.
        wallet: Pays, signs and validates.
    """

    creates_are_repeatable = True

    def __init__(self, settings: Settings, wallet: Wallet) -> None:
        self._url = settings.base_url
        self._wallet = wallet
        self._fee = wei_of(settings.fee, "fee")  # above 0: settings are checked
        self._facts = attrs.evolve(RELAY_FACTS, fee_cnx=float(settings.fee))
        self._client = RelayClient(settings, wallet)
        self._reader = RunReader(self._client, wallet)
        self._outlook = Outlook(self._client)
        self._account = RelayAccount(self._client, wallet)
        self._actions = Actions(self._client, self._reader, wallet.address)
        self._own_tasks = OwnTasks(self._client, self._reader, wallet.address)

    @property
    def name(self) -> str:
        """The relay's address."""
        return self._url

    @property
    def key_id(self) -> str:
        """The wallet's address, which is no secret."""
        return self._wallet.address

    @property
    def facts(self) -> ServiceFacts:
        """What the relay adds to a training."""
        return self._facts

    @property
    def habits(self) -> Habits:
        """How jobs of the relay are held and named: a commitment of 66 characters makes no good file name.

        The relay shows what a task was created with, so that nobody needs to keep it.
        """
        return Habits(lease=LEASE, file_name="{job_id}.zip", needs_credential_to_look=True, needs_payload=False)

    def normal_task_id(self, given: str | int) -> str:
        """Return a commitment as the relay writes it.

        Raises:
            UsageError: It is none.
        """
        text = str(given).strip().lower()
        if not is_commitment(text):
            raise UsageError(
                f"a task of the relay is named by its commitment, 0x and 64 hexadecimal digits, not {given!r:.60}; "
                "'crynux-async jobs --json' has that of each job",
                field="task_id",
            )
        return text

    def effective(self, config: FineTuneConfig) -> EffectiveConfig:
        """Return what the relay and its nodes make of a config: it is sent as it is, zeros included."""
        return config.effective(mapping=RELAY_FACTS.mapping)

    def stall_after(self, config: FineTuneConfig) -> float:
        """Return after how many seconds a healthy try of a config has certainly ended, repeats included."""
        return (1 + REPEATS + LOST_REPEATS) * RELAY_FACTS.longest_round(config.timeout)

    def intend(self, order: Order) -> str:
        """Return the create of a try's first task, as text; nothing secret is in it.

        Raises:
            ConfigError: It takes more than one round.
        """
        config = order.config.sent(RELAY_FACTS.mapping)
        if most_rounds(config) != 1:
            field = "num_train_epochs" if config.num_train_steps is None else "num_train_steps"
            message = (
                "at the relay a job is one round, because a later one starts from untrained weights and would be paid "
                "for nothing; leave num_train_steps and num_train_epochs out, with a timeout for all of it"
            )
            raise ConfigError([Problem(field=field, message=message)])
        ids = self._reader.names.ids(order.job_id, order.try_number, 0)
        return CreateRequest.of(ids, config, fee=self._fee).as_text()

    async def create(self, payload: str) -> CreatedTask:
        """Create the first task of a try; again, where that was done before.

        Raises:
            UnreachableError: Nothing was sent.
            AuthError, QuotaError, RejectedError, ProtocolError: Refused; nothing of this wallet's was made.
            SubmissionUnknownError: The task may exist; the same payload may be sent again.
        """
        try:
            request = CreateRequest.from_text(payload)
        except PayloadError as error:
            raise RejectedError(f"this create cannot be sent: {error}") from error
        await self._outlook.warn(request.model, request.timeout)
        # Before the create, while it still fails as if nothing was sent.
        now = await self._client.now()
        try:
            task = await self._actions.create(request)
        except RefusedError as refused:
            raise refused.error from None
        is_selected = self._reader.selects_group(task)
        # A task that is selected needs its siblings at once; any other waits for a node first.
        wait = _SOON if is_selected else spread(first_look_after(task.timeout), task.commitment)
        # One that was created before, by an attempt whose answer was lost, may have come further.
        run = Run(number=0, members={0: task}, is_selected=is_selected)
        return CreatedTask(
            task_id=task.commitment,
            created_at=task.created_at,
            again_after=wait,
            stage=run.stage.value,
            phases=phases_of(run, now),
        )

    async def look(self, task: Task) -> Look:
        """Look at the last run of a try; its ``stage`` is queued, started, scored, validated or uploaded.

        Raises:
            NotFoundError: The relay has no such task, or not any more.
            OwnershipError, AuthError: It is not this wallet's.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        seen = await self._reader.read(task)
        if seen.ids is not None and seen.ids.place:
            return self._look_of_sibling(seen, seen.ids)
        runs = runs_of(task, seen.run)
        found = progress(runs)
        action = self._next(task, seen)
        now = await self._client.now()
        wait = spread(again_after(seen.run, now), task.task_id)
        is_new = action is not None and stored_action(task, action.kind, action.member) is None
        # What is done now goes on to its next phase; where it has to be done again, that is not to wait for.
        phases = phases_of(seen.run, now) if is_new or action is None else ()
        return Look(
            seen=_SEEN[found.end],
            stage=found.stage.value,
            again_after=_SOON if is_new else wait,  # what is done now shows at once; what is done again must not hurry
            phases=phases,
            has_images=bool(found.with_images),
            reason=failure(found) if found.end is End.FAILED else "",
            facts={_RUN: seen},
        )

    def _look_of_sibling(self, seen: SeenRun, ids: TaskIds) -> Look:
        """Return what is seen of a task that only checks another one, and has no archive to be fetched."""
        first = self._reader.names.sibling(ids, 0).commitment
        reason = f"it only checks the task {first}, which is the one to attach"
        return Look(seen=Seen.FAILED, stage=seen.run.stage.value, reason=reason, facts={_RUN: seen})

    def next_action(self, task: Task, look: Look) -> Action | None:
        """Return what a try needs next; nothing where another program has made it."""
        return self._next(task, look.facts[_RUN])

    def _next(self, task: Task, seen: SeenRun) -> Action | None:
        if seen.run.members and seen.ids is None:
            return None
        runs = runs_of(task, seen.run)
        step = next_step(runs)
        return None if step is None else stored_action(task, step.kind, step.member) or action_of(step, runs)

    async def act(self, task: Task, action: Action) -> str:
        """Do a stored action; return "" where it went well, else why it never will.

        Raises:
            BackendError: No outcome that counts; it is done again after the next look.
        """
        return await self._actions.act(task, action)

    def open_result(
        self, task: Task, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the archive of a try from byte ``start`` on, provided it is still the version of ``validator``.

        Only a run of one task has an archive that can be fetched, so it is the last run's first task that has it.

        Raises:
            RangeError, NotFoundError, OwnershipError, AuthError: As the relay says.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts; ask again later.
        """
        commitment = self._reader.commitment(task, last_run(task))
        return self._client.open_result(commitment, start=start, validator=validator)

    async def cancel(self, task: Task) -> str:
        """Cancel a try while it waits for a node, and return what is refunded, for people.

        Raises:
            RejectedError: It does not wait (any more); the message says what happens now.
            NotFoundError, UnreachableError, TransportError, ServerError, ProtocolError: It was not cancelled, as far
                as is known.
        """
        # Only what waits can be cancelled: what a node has runs on until its timeout.
        waiting = [member for member in (await self._reader.read(task)).run.members.values() if _is_queued(member)]
        for member in waiting:
            await self._actions.cancel(member)
        run = (await self._reader.read(task)).run
        cancelled = [member for member in run.members.values() if _is_cancelled(member)]
        if not waiting or not cancelled:
            raise RejectedError(_why_not_cancelled(run), task_id=task.task_id)
        # Nobody validates them any more, so the relay ends them by their timeout.
        running = sum(member.fee for member in run.members.values() if member.status not in ENDED)
        later = f"; {to_cnx(running)} CNX more once the timeout ends what nodes have already" if running else ""
        return f"{to_cnx(sum(member.fee for member in cancelled))} CNX are refunded{later}"

    async def images(self, task: Task) -> Sequence[bytes]:
        """Return the validation images of a try as PNG files, in order.

        Where the network has checked a run and gives its archive to nobody, its images are there all the same.

        Raises:
            NotFoundError: There are none (yet).
            OwnershipError, UnreachableError, TransportError, ServerError, ProtocolError: As ``look``.
        """
        runs = runs_of(task, (await self._reader.read(task)).run)
        members = progress(runs).with_images
        if not members:
            raise NotFoundError("no node has uploaded validation images yet", task_id=task.task_id)
        commitment = await self._reader.member_commitment(task, members[-1])
        found: list[bytes] = []
        while len(found) < _MOST_IMAGES and (image := await self._client.image(commitment, len(found))) is not None:
            found.append(image)
        return found

    async def reason(self, task: Task) -> str:
        """Return why runs of a try failed, for people, or ""."""
        return (await self.look(task)).reason

    async def outlook(self, config: FineTuneConfig) -> Sequence[str]:
        """Return what will keep a training waiting, for people: no node, no node with its model, a long queue."""
        return await self._outlook.surprises(config.model_name, config.timeout)

    def price(self, config: FineTuneConfig) -> int | None:
        """Return the wei that one try may hold at once: three fees, should the network want it checked.

        Nearly all tries cost one fee. One in a hundred is checked by three nodes, costs up to two fees for that, and
        one more for the run that brings the archive.
        """
        return GROUP_SIZE * self._fee

    async def balance(self) -> int | None:
        """Return the wei on the wallet's account at the relay."""
        return await self._client.balance()

    async def spent(self, task: Task, look: Look) -> int | None:
        """Return the wei that a try has cost so far: what was refunded is not counted."""
        return progress(runs_of(task, look.facts[_RUN].run)).spent

    async def final_cost(self, task: Task) -> int | None:
        """Return the wei that a try has cost that nobody validates any more; None until the relay has ended all of it.

        Raises:
            NotFoundError, OwnershipError, AuthError, UnreachableError, TransportError, ServerError, ProtocolError: As
                ``look``.
        """
        run = (await self._reader.read(task)).run
        if any(member.status not in ENDED for member in run.members.values()):
            return None
        return progress(runs_of(task, run)).spent

    async def payments(self) -> Sequence[Payment]:
        """Return every payment of the wallet with its refund, the newest first; the list is up to 10 s late."""
        return await self._account.payments()

    def task_ids(self, task: Task) -> Sequence[str]:
        """Return the commitments of all tasks of a try whose creates are stored."""
        members = [action.member for action in task.actions if action.kind == Kind.CREATE]
        names = self._reader.names
        return [
            task.task_id,
            *(names.ids(task.job_id, task.try_number, member).commitment for member in members),
        ]

    def first_task_id(self, job_id: str, try_number: int) -> str:
        """Return the commitment of a try's first task, whether it was ever made or not."""
        return self._reader.names.ids(job_id, try_number, 0).commitment

    async def recognise(self, task_id: str) -> OwnTask | None:
        """Return what a task is that this library has made with this wallet: its nonce tells, without any ledger."""
        return await self._own_tasks.recognise(task_id)

    def candidates(self, create: LostCreate, *, at_most: int) -> Iterable[str]:
        """Return nothing: each create knows the one name that its task can have, and no other job can have it."""
        return ()

    def search_requests(self, lost: Sequence[LostCreate], *, known: frozenset[str], at_most: int) -> int:
        """Return how many requests ``find_lost`` will make: one for each create, which knows its task's name."""
        return sum(create.is_wanted for create in lost)

    async def find_lost(self, lost: Sequence[LostCreate], *, known: frozenset[str], at_most: int) -> list[Finding]:
        """Look for the tasks of lost creates by the names that they must have.

        Raises:
            AuthError, UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        return [await self._own_tasks.find(create) for create in lost if create.is_wanted]

    async def close(self) -> None:
        """Release every connection."""
        await self._client.close()


def _is_queued(task: RelayTask) -> bool:
    return task.status is Status.QUEUED


def _is_cancelled(task: RelayTask) -> bool:
    return task.abort_reason is AbortReason.CREATOR_CANCELLED


def _why_not_cancelled(run: Run) -> str:
    """Return why a run cannot be cancelled, and what happens to it."""
    if run.is_over or not run.members:
        return "nothing waits for a node, so there is nothing to cancel"
    if run.stage in (Stage.VALIDATED, Stage.UPLOADED):
        return "the training is validated and paid for; its archive is on the way"
    deadline = max((task.deadline or 0.0 for task in run.members.values()), default=0.0)
    when = f" at {datetime.fromtimestamp(deadline, UTC):%H:%M} UTC" if deadline else ""
    return (
        "a node has it already, and what runs cannot be stopped; abandon the job, so that nobody validates it: then "
        f"the relay ends it by its timeout{when}, and refunds it"
    )
