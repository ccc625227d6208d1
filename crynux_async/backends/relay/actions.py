"""Does what a try needs: creates more tasks, validates, cancels; each so that doing it again does no harm.

Whether something has happened is never guessed from a missing answer: what is refused or lost is looked at.
"""

import logging

from crynux_async.backends.base import Action, Task
from crynux_async.backends.relay.answers import Why, difference
from crynux_async.backends.relay.client import RefusedError, RelayClient
from crynux_async.backends.relay.ids import GROUP_SIZE
from crynux_async.backends.relay.run_reader import RunReader, SeenRun
from crynux_async.backends.relay.steps import Kind, Run
from crynux_async.backends.relay.tasks import ENDED, RelayTask, Status
from crynux_async.backends.relay.tries import runs_of
from crynux_async.backends.relay.wire import CreateRequest
from crynux_async.errors import BackendError, ProtocolError, SubmissionUnknownError, TransportError
from crynux_async.money import to_cnx

_log = logging.getLogger("crynux_async.backends.relay.actions")

_PASSING = frozenset((Why.CLOCK_OR_SIGNATURE, Why.TOO_LITTLE_MONEY, Why.NOT_LISTED, Why.OTHER))
"""Refusals that may be answered otherwise later; anything else is an outcome."""

_VALIDATED = ENDED | {Status.VALIDATED, Status.GROUP_VALIDATED}


class Actions:
    """What can be done to the tasks of a try.

    Args:
        client: The relay's calls.
        reader: Looks, and knows names.
        address: The wallet's address.
    """

    def __init__(self, client: RelayClient, reader: RunReader, address: str) -> None:
        self._client = client
        self._reader = reader
        self._address = address

    async def act(self, task: Task, action: Action) -> str:
        """Do a stored action; return "" where it went well, else why it never will, for people.

        Raises:
            BackendError: No outcome that counts; it is done again after the next look.
        """
        kind = Kind(action.kind)
        if kind is Kind.CREATE:
            return await self._create(task, action.member)
        seen = await self._reader.read(task)
        if kind is Kind.VALIDATE:
            return await self._validate(task, seen)
        return await self.cancel(seen.run.members[action.member])

    async def create(self, request: CreateRequest) -> RelayTask:
        """Create a task, or find it where it was created before, and return it.

        Raises:
            RefusedError: The relay refuses it.
            ProtocolError: A task was made that is not what was asked for.
            UnreachableError: Nothing was sent.
            SubmissionUnknownError: The task may exist.
        """
        try:
            task = await self._client.create(request)
        except RefusedError as refused:
            if refused.refusal.why is not Why.EXISTS:
                raise
            task = await self._existing(request.commitment)
        found = difference(task, request, self._address)
        if found:
            # A create whose signature is not understood is taken for a stranger's.
            raise ProtocolError(
                f"the task at the relay is not what was asked for: {found}", task_id=request.commitment, is_lasting=True
            )
        return task

    async def _existing(self, commitment: str) -> RelayTask:
        try:
            return await self._client.task(commitment)
        except BackendError as error:
            message = (
                f"the task exists at the relay, and whether it is the one that was sent could not be seen: {error}"
            )
            raise SubmissionUnknownError(message, url=error.url) from error

    async def cancel(self, member: RelayTask) -> str:
        """Cancel a task that waits for a node; return "" where it is cancelled or does not wait any more.

        Raises:
            BackendError: No answer that counts.
        """
        if member.status is Status.QUEUED:
            try:
                await self._client.cancel(member.commitment)
            except RefusedError as refused:
                if refused.refusal.why in _PASSING:
                    raise refused.error from None
        return ""

    async def _create(self, task: Task, member: int) -> str:
        number, place = divmod(member, GROUP_SIZE)
        if place == 0:
            self._tell_why(task, number)
        names = self._reader.names
        if place == 0:
            ids = names.ids(task.job_id, task.try_number, member)
        else:
            first = await self._client.task(self._reader.commitment(task, number))
            known = names.recognised(first.commitment, first.nonce)
            if known is None or first.status in ENDED:
                return ""  # it would be paid for, and nobody would check anything with it
            ids = names.sibling(known, place)
        try:
            await self.create((await self._request(task)).sibling(ids))
        except RefusedError as refused:
            if refused.refusal.why in _PASSING:
                raise refused.error from None
            return str(refused.error)
        except SubmissionUnknownError as error:
            raise TransportError(str(error), url=error.url) from error
        return ""

    def _tell_why(self, task: Task, number: int) -> None:
        """Say why a try is run once more, and what it has cost so far."""
        past = runs_of(task, Run(number=number, members={}, is_selected=False))[:number]
        cost = to_cnx(sum(run.spent for run in past))
        model = CreateRequest.from_text(task.payload).model if task.payload else ""
        message = "job %s is run again with new names, because %s; so far it has cost %s CNX"
        _log.warning(message, task.job_id, past[-1].explain(model), cost)

    async def _request(self, task: Task) -> CreateRequest:
        """Return the create that the try began with; of an attached task, as far as the relay shows it."""
        if task.payload:
            return CreateRequest.from_text(task.payload)
        return CreateRequest.again(await self._client.task(task.task_id))

    async def _validate(self, task: Task, seen: SeenRun) -> str:
        run, ids = seen.run, seen.ids
        # Looked at before, because a validation is not idempotent: the second one is refused as a wrong state.
        if ids is None or _is_validated(seen):
            return ""
        # By the seed and not by what was seen: with one commitment the relay refuses a selected task, and has its id.
        places = range(GROUP_SIZE if run.is_selected else 1)
        try:
            await self._client.validate(
                [self._reader.names.sibling(ids, place) for place in places], run.members[run.first].seed
            )
        except RefusedError as refused:
            if refused.refusal.why in _PASSING:
                raise refused.error from None
            if refused.refusal.why is not Why.WRONG_STATE:
                return str(refused.error)
            await self._require_validated(task, refused)
        return ""

    async def _require_validated(self, task: Task, refused: RefusedError) -> None:
        """Raise a refusal unless the tasks were validated before it, by an answer that was lost or by another owner."""
        if not _is_validated(await self._reader.read(task)):
            raise refused.error from None


def _is_validated(seen: SeenRun) -> bool:
    """Whether nothing is left to be validated. A member of a group may have ended long before the others."""
    return all(task.status in _VALIDATED for task in seen.run.members.values())
