"""What only the relay gives: what a job costs one's own wallet, and its validation images."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from crynux_async.errors import CrynuxError, QuotaError
from crynux_async.job import Job
from crynux_async.money import to_cnx, wei_of
from crynux_async.session import Session
from crynux_async.training.config import FineTuneConfig


class _Printer(logging.Handler):
    """Prints what is logged, between what a board prints."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC)
        self._console.print(f"{at:%H:%M:%S} {record.getMessage()}", style="yellow")


@contextmanager
def repeats_shown(console: Console) -> Iterator[None]:
    """Print while the block runs why a task is run again, and what it has cost: the library only logs it."""
    logger = logging.getLogger("crynux_async.backends.relay.actions")
    handler = _Printer(console)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


async def show_end(job: Job, console: Console) -> None:
    """Say where the validation images of a job are whose archive is on disk, and what it has cost.

    Images that cannot be had are no failure.
    """
    try:
        for path in await job.store_images():
            console.print(Text(f"Image     {path}"))
    except (CrynuxError, OSError) as error:
        console.print(Text(f"The validation images are not stored: {error}", style="yellow"))
    console.print(f"Cost      {to_cnx((await job.cost()).spent)} CNX")


async def show_money(session: Session, configs: Sequence[FineTuneConfig], console: Console) -> None:
    """Print what jobs cost, what they may hold and what the account has, before they are sent.

    Args:
        session: Where they will be sent.
        configs: What they will train, at least one.
        console: Where to print.

    Raises:
        QuotaError: The account has less than one fee; nothing is sent.
        BackendError: The balance could not be asked; nothing is sent.
    """
    fee, count = wei_of(session.settings.fee, "fee"), len(configs)
    most, balance = sum(session.price(config) or 0 for config in configs), await session.balance() or 0
    each = "" if count == 1 else f", {count:,} jobs of {to_cnx(fee)} CNX each"
    lines = [
        f"Costs     {to_cnx(count * fee)} CNX{each}; what fails is refunded.",
        f"Holds     up to {to_cnx(most)} CNX: one job in a hundred is checked by three nodes, and run again.",
        f"Balance   {to_cnx(balance)} CNX",
    ]
    for line in lines:
        console.print(line)
    for sentence in await _surprises(session, configs):
        console.print(Text(f"Network   {sentence}", style="yellow"))
    # Not even one could be sent. With more than that, what can be paid is sent, and the rest is told below.
    if balance < fee:
        raise QuotaError(
            f"the account has {to_cnx(balance)} CNX and a job costs {to_cnx(fee)}: send CNX from the wallet to the "
            "relay's deposit address; nothing was sent",
            field="wallet",
        )
    if balance < count * fee:
        console.print(f"The balance suffices for {balance // fee:,} of {count:,} jobs.", style="yellow")
    elif balance < most:
        said = "The balance does not suffice for a job that is checked: its run ends by the timeout and is refunded."
        console.print(Text(said, style="yellow"))


async def _surprises(session: Session, configs: Sequence[FineTuneConfig]) -> list[str]:
    """Return what will keep jobs waiting, each sentence once."""
    # Once for each model and timeout: the outlook of two configs that share both is the same.
    by_model = {(config.model_name, config.timeout): config for config in configs}
    said = [sentence for config in by_model.values() for sentence in await session.outlook(config)]
    return list(dict.fromkeys(said))
