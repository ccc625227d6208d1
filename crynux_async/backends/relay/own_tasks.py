"""Finds tasks that this library has made with a wallet: those of lost creates, and those that no ledger knows.

The relay shows a nonce and never a task id. As the nonce follows from the wallet (see ``ids``), it proves whose task it
is, and its owner can validate it. Nothing here changes anything.
"""

from datetime import datetime, timedelta

from crynux_async.backends.base import Finding, LostCreate, OwnTask, Task, Verdict
from crynux_async.backends.relay.answers import difference
from crynux_async.backends.relay.arguments import config_of
from crynux_async.backends.relay.client import RelayClient
from crynux_async.backends.relay.run_reader import RunReader
from crynux_async.backends.relay.steps import End, progress
from crynux_async.backends.relay.wire import CreateRequest, PayloadError
from crynux_async.clock import utc_now
from crynux_async.errors import NotFoundError

_LANDED_AFTER = timedelta(seconds=180)
"""After so long no create arrives any more: its signature counts for a minute, by a clock that is at most one off."""


class OwnTasks:
    """The tasks of one wallet, known without any ledger.

    Args:
        client: Asks the relay.
        reader: Looks at runs, and knows names.
        address: The wallet's address.
    """

    def __init__(self, client: RelayClient, reader: RunReader, address: str) -> None:
        self._client = client
        self._reader = reader
        self._address = address

    async def recognise(self, commitment: str) -> OwnTask | None:
        """Return what a task is that this library has made, or None for one of another program.

        Raises:
            NotFoundError: The relay does not have it, or not any more.
            OwnershipError, AuthError: It is not this wallet's.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        shown = await self._client.task(commitment)
        ids = self._reader.names.recognised(shown.commitment, shown.nonce)
        if ids is None:
            return None
        first = self._reader.names.sibling(ids, 0).commitment
        # Of siblings the first is shown: it alone has an archive that can be fetched.
        run = (await self._reader.read(Task(task_id=first))).run
        is_success = progress([run]).end is End.SUCCEEDED
        return OwnTask(
            task_id=first,
            stage=run.stage.value,
            can_have_model=is_success or not run.is_over,
            config=config_of(shown.args, shown.timeout),
        )

    async def find(self, lost: LostCreate, now: datetime | None = None) -> Finding:
        """Look for the task of a lost create under the one name that it can have.

        Args:
            lost: The create.
            now: The time, aware; None for this machine's.

        Raises:
            OwnershipError, AuthError: The wallet is not the one that sent it.
            UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
        """
        try:
            request = CreateRequest.from_text(lost.payload)
        except PayloadError as error:
            return Finding(job_id=lost.job_id, verdict=Verdict.OPEN, explanation=f"what was sent is not known: {error}")
        try:
            task = await self._client.task(request.commitment)
        except NotFoundError:
            return _not_there(lost, request, now or utc_now())
        other = difference(task, request, self._address)
        if other:
            said = f"a task of this name exists, and {other}; it is not this wallet's to validate"
            return Finding(job_id=lost.job_id, verdict=Verdict.AMBIGUOUS, explanation=said)
        said = "the relay has the task under the name that only this job's create can have"
        return Finding(job_id=lost.job_id, verdict=Verdict.FOUND, task_id=task.commitment, explanation=said)


def _not_there(lost: LostCreate, request: CreateRequest, now: datetime) -> Finding:
    """Return what it means that the relay does not have the task of a create."""
    # Not there is no proof while a create may still arrive: another job sent now would be paid for as well.
    if now - lost.began_at < _LANDED_AFTER:
        said = "the relay does not have it yet, and the create may still be on its way; look again in a few minutes"
        return Finding(job_id=lost.job_id, verdict=Verdict.OPEN, explanation=said)
    said = f"the relay has no task {request.commitment}, so nothing was made and nothing was paid; retry() sends it"
    return Finding(job_id=lost.job_id, verdict=Verdict.NOT_CREATED, explanation=said)
