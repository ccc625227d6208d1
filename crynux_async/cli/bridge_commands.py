"""The commands about your own bridge, and what they say about themselves."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from crynux_async.backends.bridge.deploy_defaults import DEFAULT_IMAGE, DEFAULT_PORT, Database
from crynux_async.cli.exits import execute, guard
from crynux_async.cli.options import Flag, Json

# Every 64th key begins with "-", and so does its name here.
_Key = Annotated[str, Parameter(allow_leading_hyphen=True)]


def bridge_app() -> App:
    """Return ``bridge`` with its commands."""
    app = App(
        name="bridge",
        help=(
            "Run a bridge of your own: from a wallet to a working key with init and up.\n\n"
            "The wallet comes from CRYNUX_WALLET, the path of a keystore or of a file of mode 0600 with the key. A "
            "keystore's password is asked for, or read from the file that CRYNUX_WALLET_PASSWORD_FILE names."
        ),
    )
    for command in (init, doctor, up, down, logs, status):
        app.command(command)
    app.command(proxy, usage="Usage: crynux-async bridge proxy [FOLDER]")
    keys = App(name="keys", help="The bridge's API keys, each named by its first characters.")
    keys.command(list_keys, name="list")
    for key_command in (create, rotate, retire, delete, limits):
        keys.command(key_command)
    app.command(keys)
    return app


def init(
    folder: Path,
    /,
    *,
    network: str = "mainnet",
    image: str = DEFAULT_IMAGE,
    port: int = DEFAULT_PORT,
    database: Database = "sqlite",
    json: Json = False,
) -> int:
    """Write every file that a bridge of your wallet needs into a new folder, and nothing else.

    Args:
        folder: Where the bridge lives from now on.
        network: mainnet, staging, or the address of a relay.
        image: The container image. Look up which tags there are: this one may be gone.
        port: The port on this machine.
        database: sqlite for a file in the folder; mysql for a container beside the bridge.
        json: Print what was written as JSON.
    """
    from crynux_async.cli import bridge

    return guard(lambda: bridge.init(folder, network, image, port, database, as_json=json), as_json=json)


def doctor(folder: Path, /, *, program: Flag = False, json: Json = False) -> int:
    """Check everything that keeps a bridge from starting or endangers its money, with a remedy for each.

    The exit code is 0 when it can start, and 2 when it cannot.

    Args:
        folder: The bridge's folder.
        program: The bridge will run as a program, so Docker is not needed.
        json: Print the findings as JSON.
    """
    from crynux_async.cli import bridge

    return execute(bridge.doctor(folder, as_program=program, as_json=json), as_json=json)


def up(
    folder: Path,
    /,
    *,
    binary: Path | None = None,
    rate_limit: int = 60,
    patience: float = 120.0,
    json: Json = False,
) -> int:
    """Start the bridge, wait until it answers, and make a key that is ready; also after a reboot.

    Args:
        folder: The bridge's folder.
        binary: A program to start in that folder, without arguments, in place of a container.
        rate_limit: Creates a minute for a new key.
        patience: Seconds to wait for the bridge.
        json: Print address, key and settings file as JSON; the key by its first 8 characters.
    """
    from crynux_async.cli import bridge_up

    return execute(bridge_up.up(folder, binary, rate_limit, patience, as_json=json), as_json=json)


def down(folder: Path, /) -> int:
    """Stop the bridge. Jobs go on at the nodes, and are taken up again at the next start.

    Args:
        folder: The bridge's folder.
    """
    from crynux_async.cli import bridge_up

    return guard(lambda: bridge_up.down(folder))


def logs(folder: Path, /, *, lines: int = 40) -> int:
    """Show the last lines that the bridge has logged since its start, and explain those that are known.

    Args:
        folder: The bridge's folder.
        lines: How many lines.
    """
    from crynux_async.cli import bridge_up

    return guard(lambda: bridge_up.logs(folder, lines))


def status(folder: Path, /, *, json: Json = False) -> int:
    """Show the balance, how many rounds it pays for, nodes, tasks, and keys with their last day.

    Args:
        folder: The bridge's folder.
        json: Print it as JSON.
    """
    from crynux_async.cli import bridge

    return execute(bridge.status(folder, as_json=json), as_json=json)


def proxy(folder: Path | None = None, /) -> int:
    """Print a reverse proxy's configuration that lets other machines use the bridge for jobs, and for nothing else.

    Args:
        folder: The bridge's folder, for its port.
    """
    from crynux_async.cli import bridge

    return guard(lambda: bridge.proxy(folder))


def list_keys(folder: Path, /) -> int:
    """Show the keys that are known here; the bridge itself lists none.

    Args:
        folder: The bridge's folder.
    """
    from crynux_async.cli import bridge_keys

    return guard(lambda: bridge_keys.list_keys(folder))


def create(folder: Path, /, *, rate_limit: int = 60, use_limit: int = -1, json: Json = False) -> int:
    """Make a key that is ready for use, and print it. Run it again if it was interrupted.

    Args:
        folder: The bridge's folder.
        rate_limit: Creates a minute.
        use_limit: LLM calls in all; -1 for no limit.
        json: Print it as JSON.
    """
    from crynux_async.cli import bridge_keys

    return execute(bridge_keys.create(folder, rate_limit, use_limit, as_json=json), as_json=json)


def rotate(folder: Path, key: _Key, /, *, ledger: str | None = None) -> int:
    """Replace a key by a new one; the old one is kept as long as jobs need it for their results.

    Args:
        folder: The bridge's folder.
        key: The first characters of the key.
        ledger: Where the jobs are; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
    """
    from crynux_async.cli import bridge_keys

    return execute(bridge_keys.rotate(folder, key, ledger))


def retire(folder: Path, /, *, ledger: str | None = None) -> int:
    """Delete the replaced keys that no job needs any more.

    Args:
        folder: The bridge's folder.
        ledger: Where the jobs are; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
    """
    from crynux_async.cli import bridge_keys

    return execute(bridge_keys.retire(folder, ledger))


def delete(folder: Path, key: _Key, /, *, force: Flag = False, ledger: str | None = None) -> int:
    """Delete a key; after that nobody can fetch the results of its jobs.

    Args:
        folder: The bridge's folder.
        key: The first characters of the key.
        force: Delete it even if jobs need it.
        ledger: Where the jobs are; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
    """
    from crynux_async.cli import bridge_keys

    return execute(bridge_keys.delete(folder, key, force=force, ledger=ledger))


def limits(folder: Path, key: _Key, /, *, rate_limit: int | None = None, use_limit: int | None = None) -> int:
    """Change the limits of a key. The burst of a key in use stays until the bridge restarts.

    Args:
        folder: The bridge's folder.
        key: The first characters of the key.
        rate_limit: Creates a minute.
        use_limit: LLM calls in all; -1 for no limit.
    """
    from crynux_async.cli import bridge_keys

    return execute(bridge_keys.limits(folder, key, rate_limit, use_limit))


app = bridge_app()
