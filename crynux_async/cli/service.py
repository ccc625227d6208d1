"""Which service a command talks to: a bridge, the relay, or an emulated one on this machine."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from crynux_async.backends.opening import ServiceName
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, ledger_place
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.errors import Problem, SettingsError
from crynux_async.job import Job
from crynux_async.ledgers.base import JobFilter
from crynux_async.secret import Secret
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.supervision.cut_off import sent_in_doubt

_SPEED = 20.0


@asynccontextmanager
async def open_session(
    ledger: LedgerPlace | None,
    service: ServiceChoice,
    *,
    needs_key: bool = False,
    makes_ledger: bool = True,
    only_reads: bool = False,
    follow: bool = True,
    price: float | None = None,
) -> AsyncIterator[Session]:
    """Open a session on the ledger of this command.

    Args:
        ledger: Its place, or None for the usual one.
        service: Where the jobs are.
        needs_key: Whether nothing can be done at a bridge without its key.
        makes_ledger: Whether a ledger that is not there is made; not for a command that is about jobs in one, because
            a mistyped place would look like one without jobs.
        only_reads: Whether nothing will be stored, so that a ledger that is not there counts as one without jobs, and
            is not made either.
        follow: As of ``Session``.
        price: As of ``Session``, in CNX.

    Raises:
        SettingsError: There is no key, and it is needed.
        UsageError: An option does not go with the service, or there is no ledger and none is made.
    """
    settings = service.settings()
    # Before the session, which would make the ledger and keep the job in it as rejected.
    if needs_key and not service.relay and settings.api_key is None:
        message = "is missing: set CRYNUX_API_KEY, or api_key in the settings file; nothing was sent"
        raise SettingsError([Problem(field="api_key", message=message)])
    backend: ServiceName = "relay" if service.relay else "bridge"
    place: LedgerPlace | None
    if only_reads:
        place = ledger_place(ledger)
        place = None if isinstance(place, Path) and not place.exists() else place
    else:
        place = ledger_place(ledger, makes_folder=True) if makes_ledger else existing_place(ledger)
    async with Session(settings, ledger=place, backend=backend, follow=follow, price=price) as session:
        yield session


@asynccontextmanager
async def emulated_session(
    service: ServiceChoice, *, ledger: LedgerPlace | None = None, price: float | None = None
) -> AsyncIterator[Session]:
    """Open a session on an emulated bridge or relay that lives as long.

    Args:
        service: Whether it is a relay; a wallet with money is made for it.
        ledger: Where jobs are remembered, or None to remember nothing.
        price: As of ``Session``, in CNX.
    """
    if not service.relay:
        from crynux_async.emulator import Emulator

        async with (
            Emulator(speed=_SPEED) as bridge,
            Session(**bridge.settings(), ledger=ledger, price=price) as session,
        ):
            yield session
        return
    from crynux_async.emulator.relay import RelayEmulator
    from crynux_async.signing import Wallet

    async with RelayEmulator(speed=_SPEED) as emulator:
        wallet = Wallet(Secret(emulator.new_wallet()))
        # A proxy of the environment may be unable to reach this machine.
        settings = attrs.evolve(service.settings(), network=emulator.url, trust_env=False)
        async with Session(settings, backend="relay", wallet=wallet, ledger=ledger, price=price) as session:
            yield session


async def in_doubt(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """Return the planned jobs that may have a task all the same, because the answer to a create of them was lost."""
    waiting = {job.job_id: job for job in jobs if job.state is JobState.PLANNED}
    rows = await session.ledger.jobs(JobFilter(job_ids=waiting)) if waiting else []
    return [waiting[name] for name in await sent_in_doubt(session.ledger, rows)]
