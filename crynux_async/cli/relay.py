"""What only the relay gives: what a job costs one's own wallet, and its validation images."""

import asyncio
from pathlib import Path

from rich.console import Console
from rich.text import Text

from crynux_async.backends.relay.wire import FEE
from crynux_async.errors import CrynuxError, QuotaError
from crynux_async.files import new_file
from crynux_async.job import Job
from crynux_async.money import to_cnx
from crynux_async.session import Session
from crynux_async.training.config import FineTuneConfig


async def store_images(job: Job, console: Console) -> list[Path]:
    """Store the validation images of a job beside its archive; what cannot be had is said and is no failure.

    Args:
        job: A job whose archive is on disk.
        console: Where to print.

    Returns:
        The files: the archive's name with a number behind it.
    """
    assert job.path is not None
    try:
        images = await job.images()
        return [await asyncio.to_thread(_store, job.path, number, image) for number, image in enumerate(images)]
    except (CrynuxError, OSError) as error:
        console.print(Text(f"The validation images are not stored: {error}", style="yellow"))
        return []


def _store(archive: Path, number: int, image: bytes) -> Path:
    path = archive.with_name(f"{archive.stem}-{number}.png")
    with new_file(path, replace=True) as file:
        file.write(image)
    return path


async def show_money(session: Session, config: FineTuneConfig, console: Console) -> None:
    """Print what a job costs, what it may hold and what the account has, before it is sent.

    Args:
        session: Where it will be sent.
        config: What will be trained.
        console: Where to print.

    Raises:
        QuotaError: The account has less than the fee; nothing is sent.
        BackendError: The balance could not be asked; nothing is sent.
    """
    most, balance = session.price(config), await session.balance()
    assert most is not None
    assert balance is not None
    console.print(f"Costs     {to_cnx(FEE)} CNX, which come back if it fails.")
    console.print(f"Holds     up to {to_cnx(most)} CNX: one job in a hundred is checked by three nodes, and run again.")
    console.print(f"Balance   {to_cnx(balance)} CNX")
    for sentence in await session.outlook(config):
        console.print(Text(f"Network   {sentence}", style="yellow"), soft_wrap=True)
    if balance < FEE:
        raise QuotaError(
            f"the account has {to_cnx(balance)} CNX and the job costs {to_cnx(FEE)}: send CNX from the wallet to the "
            "relay's deposit address; nothing was sent",
            field="wallet",
        )
    if balance < most:
        console.print(
            "[yellow]The balance does not suffice should it be checked: then it fails, and its fee comes back.[/]"
        )
