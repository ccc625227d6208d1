"""``bridge keys``: the API keys of one's own bridge. A key itself is shown only where it was just made."""

import json
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from crynux_async.backends.bridge.admin import BridgeAdmin, NeededBy
from crynux_async.backends.bridge.key_book import BridgeKey
from crynux_async.cli.bridge import open_admin, show_keys
from crynux_async.cli.bridge_folder import BridgeFolder, in_folder, open_folder
from crynux_async.cli.bridge_key_choice import replace_in_settings
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, ledger_place
from crynux_async.errors import UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.credentials import jobs_that_need
from crynux_async.signing import Wallet

_SHOWN = 8  # signs of a key that are no secret


def list_keys(folder: Path) -> Exit:
    """Show the keys that are known here."""
    bridge = open_folder(folder)
    admin = BridgeAdmin(bridge.config.base_url, None, keys=bridge.keys_file)
    show_keys(open_console(), admin.list_keys(), folder)
    return Exit.DONE


async def create(folder: Path, rate_limit: int, use_limit: int, *, as_json: bool) -> Exit:
    """Make a key that is ready, and show it."""
    async with _admin(open_folder(folder), folder) as admin:
        key = await admin.create_key(rate_limit=rate_limit, use_limit=use_limit)
    if as_json:
        print(json.dumps({"api_key": key.api_key.reveal(), "expires_at": key.expires_at.isoformat()}))  # noqa: T201
        return Exit.DONE
    console = open_console()
    console.print(f"It is ready: primed, {rate_limit} creates a minute, until {key.expires_at:%Y-%m-%d}.", style="dim")
    console.print(f"export CRYNUX_API_KEY={key.api_key.reveal()}")
    return Exit.DONE


async def rotate(folder: Path, prefix: str, ledger: LedgerPlace | None) -> Exit:
    """Put a new key in the place of one, which is kept while jobs need it for their results."""
    console = open_console()
    bridge = open_folder(folder)
    # The ledger is looked for before the bridge is asked: what cannot be counted must not be rotated.
    needed_by = _jobs_in(ledger_place(ledger), bridge)
    async with _admin(bridge, folder) as admin:
        old = _chosen(admin, prefix)
        rotation = await admin.rotate_key(old.api_key, needed_by)
    console.print(f"The key {rotation.key.prefix}... replaces {old.prefix}....")
    if rotation.is_deleted:
        console.print(f"{old.prefix}... is deleted.")
    else:
        console.print(
            f"{old.prefix}... is kept for the results of {_jobs(len(rotation.needed_by))}. When they are fetched:\n\n"
            f"  {in_folder('crynux-async bridge keys retire FOLDER', folder)}\n"
        )
    for place in replace_in_settings(bridge, old.api_key, rotation.key):
        console.print(f"{place!s} has the new key.")
    return Exit.DONE


async def retire(folder: Path, ledger: LedgerPlace | None) -> Exit:
    """Delete replaced keys that no job needs any more."""
    bridge = open_folder(folder)
    needed_by = _jobs_in(ledger_place(ledger), bridge)
    async with _admin(bridge, folder) as admin:
        # Before the deletion: afterwards nobody here knows them any more.
        retiring = [key for key in admin.list_keys() if key.is_retiring]
        kept = await admin.retire_keys(needed_by)
        heirs = {key.replaces: key for key in admin.list_keys()}
    console = open_console()
    for key in retiring:
        if key.prefix not in kept:
            console.print(f"{key.prefix}... is deleted.")
            replace_in_settings(bridge, key.api_key, heirs.get(admin.key_id(key.api_key)))
    for prefix, jobs in kept.items():
        console.print(f"{prefix}... is kept for the results of {_jobs(len(jobs))}.")
    if not kept:
        console.print("No replaced key is left.")
    return Exit.DONE


async def delete(folder: Path, prefix: str, *, force: bool, ledger: LedgerPlace | None) -> Exit:
    """Delete a key, unless jobs need it."""
    bridge = open_folder(folder)
    needed_by = None if force else _jobs_in(ledger_place(ledger), bridge)
    async with _admin(bridge, folder) as admin:
        key = _chosen(admin, prefix)
        jobs = await needed_by(admin.key_id(key.api_key)) if needed_by else ()
        if jobs:
            raise UsageError(
                f"{_jobs(len(jobs))} of {key.prefix}... may not be fetched yet, and nobody could fetch them after "
                "that; fetch them, or give --force"
            )
        await admin.delete_key(key.api_key)
    console = open_console()
    console.print(f"{key.prefix}... is deleted.")
    for place in replace_in_settings(bridge, key.api_key, None):
        console.print(f"It is taken out of {place!s}. To have another one there:")
        console.print(in_folder("\n  crynux-async bridge up FOLDER", folder))
    return Exit.DONE


async def limits(folder: Path, prefix: str, rate_limit: int | None, use_limit: int | None) -> Exit:
    """Change the limits of a key."""
    if rate_limit is None and use_limit is None:
        raise UsageError("nothing to change: give --rate-limit or --use-limit")
    async with _admin(open_folder(folder), folder) as admin:
        key = _chosen(admin, prefix)
        if rate_limit is not None:
            await admin.set_rate_limit(key.api_key, rate_limit)
        if use_limit is not None:
            await admin.set_use_limit(key.api_key, use_limit)
        show_keys(open_console(), [_chosen(admin, prefix)], folder)
    return Exit.DONE


def _admin(bridge: BridgeFolder, folder: Path) -> AbstractAsyncContextManager[BridgeAdmin]:
    return open_admin(bridge, folder, Wallet.from_env())


def _chosen(admin: BridgeAdmin, prefix: str) -> BridgeKey:
    """Return the one key that begins so."""
    known = ", ".join(key.prefix for key in admin.list_keys()) or "none"
    if not prefix:  # as from a variable that is not set: every key begins so, and one may be deleted by it
        raise UsageError(f"no key is named; there are: {known}", field="key")
    found = [key for key in admin.list_keys() if key.api_key.reveal().startswith(prefix)]
    if len(found) != 1:
        shown = prefix if len(prefix) <= _SHOWN else f"{prefix[:_SHOWN]}..."  # it may be a whole key
        raise UsageError(f"{len(found)} keys begin with {shown!r}; there are: {known}", field="key")
    return found[0]


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"


def _jobs_in(place: LedgerPlace, bridge: BridgeFolder) -> NeededBy:
    """Return what tells which jobs of a ledger still need a key.

    Raises:
        UsageError: There is no such ledger: a mistyped name must not pass for "no job needs it".
    """
    if isinstance(place, Path) and not (place.is_file() and place.stat().st_size):
        raise UsageError(
            f"there is no ledger at {place}, so nobody knows which jobs still need a key: name the one with your jobs "
            "(--ledger); where there are no jobs, 'keys create' and 'keys delete --force' do without",
            field="ledger",
        )

    async def needed_by(key_id: str) -> Collection[str]:
        ledger = open_ledger(place)
        await ledger.open()
        try:
            return await jobs_that_need(ledger, key_id, bridge.config.base_url)
        finally:
            await ledger.close()

    return needed_by
