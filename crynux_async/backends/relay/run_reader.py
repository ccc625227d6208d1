"""Looks at the tasks of a try's last run, and says what each of them is called."""

from functools import lru_cache

import attrs

from crynux_async.backends.base import Task
from crynux_async.backends.relay.client import RelayClient
from crynux_async.backends.relay.ids import GROUP_SIZE, TaskIds, TaskNames
from crynux_async.backends.relay.steps import Run
from crynux_async.backends.relay.tasks import RelayTask
from crynux_async.backends.relay.tries import last_run
from crynux_async.errors import NotFoundError, OwnershipError
from crynux_async.signing import Wallet

_KEPT_PROOFS = 4096


@attrs.frozen(kw_only=True)
class SeenRun:
    """The last run of a try as the relay shows it.

    Attributes:
        run: The run, without its stored steps.
        ids: What its first task is called; None where another program has made it, so that nobody here can validate it.
    """

    run: Run
    ids: TaskIds | None


class RunReader:
    """Looks at runs. Nothing here changes anything.

    Args:
        client: Asks the relay.
        wallet: Whose tasks they are.
    """

    def __init__(self, client: RelayClient, wallet: Wallet) -> None:
        self._client = client
        self._address = wallet.address
        self.names = TaskNames(wallet)
        # A proof costs as much as the rest of a look, and a task's seed never changes.
        self._selects_group = lru_cache(_KEPT_PROOFS)(lambda seed: wallet.prove(seed).selects_group)

    def selects_group(self, task: RelayTask) -> bool:
        """Whether the network wants a task checked, by its seed; only that of a run's first task counts."""
        return self._selects_group(task.seed)

    def commitment(self, task: Task, number: int) -> str:
        """Return what the first task of a run is called."""
        if number == 0:
            return task.task_id
        return self.names.ids(task.job_id, task.try_number, number * GROUP_SIZE).commitment

    async def member_commitment(self, task: Task, member: int) -> str:
        """Return what a member of a try is called, asking the relay for its group's nonce where that is needed.

        Raises:
            NotFoundError: The relay does not have it, or not any more.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        number, place = divmod(member, GROUP_SIZE)
        commitment = self.commitment(task, number)
        if place == 0:
            return commitment
        first = await self._shown(commitment)
        ids = self.names.recognised(commitment, first.nonce)
        if ids is None:
            raise NotFoundError("another program has made this task, so that its siblings are not known")
        return self.names.sibling(ids, place).commitment

    async def read(self, task: Task) -> SeenRun:
        """Return the last run of a try.

        Raises:
            NotFoundError: The relay does not have it, or not any more.
            OwnershipError: It is another wallet's.
            AuthError, UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        number = last_run(task)
        try:
            first = await self._shown(self.commitment(task, number))
        except NotFoundError:
            if number == 0 or _is_created(task, number):
                raise
            return SeenRun(run=Run(number=number, members={}, is_selected=False), ids=None)
        ids = self.names.recognised(first.commitment, first.nonce)
        members = {number * GROUP_SIZE: first}
        # Only the first task's seed counts; who attaches a sibling sees that alone.
        is_selected = ids is not None and not ids.place and self.selects_group(first)
        if ids is not None and is_selected:
            for place in range(1, GROUP_SIZE):
                sibling = await self._sibling(ids, place)
                if sibling is not None:
                    members[number * GROUP_SIZE + place] = sibling
        return SeenRun(run=Run(number=number, members=members, is_selected=is_selected), ids=ids)

    async def _sibling(self, ids: TaskIds, place: int) -> RelayTask | None:
        try:
            return await self._shown(self.names.sibling(ids, place).commitment)
        except NotFoundError:
            return None

    async def _shown(self, commitment: str) -> RelayTask:
        try:
            task = await self._client.task(commitment)
        except OwnershipError as error:
            # Whose it is, the relay tells nobody but its owner and its node.
            raise self._not_owned(f"another wallet than {self._address}", commitment) from error
        if task.creator != self._address:
            # The relay shows a task to its node as well, and a node may have the same wallet.
            raise self._not_owned(f"the wallet {task.creator}, and not to {self._address}", commitment)
        return task

    @staticmethod
    def _not_owned(owner: str, commitment: str) -> OwnershipError:
        message = f"the task belongs to {owner}; use the wallet that made it (wallet=, or CRYNUX_WALLET)"
        return OwnershipError(message, task_id=commitment)


def _is_created(task: Task, number: int) -> bool:
    member = number * GROUP_SIZE
    return any(action.member == member and action.done_at and not action.outcome for action in task.actions)
