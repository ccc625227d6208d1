"""The commands that send a job and fetch a model, here or on an emulated service."""

from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from crynux_async.cli.exits import Exit, execute, guard
from crynux_async.cli.options import Flag, Json, Set, within
from crynux_async.cli.service_choice import PaidService

_Timeout = Annotated[float | None, Parameter(validator=within(0))]
_PAID_BRIDGE = PaidService()


def demo(*, out: Path = Path("crynux-demo"), json: Json = False) -> int:
    """Run a small sweep on an emulated bridge on this machine: no account, no GPU, under a minute.

    Args:
        out: Folder for the archives, and for a page about them: report.html.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import demo as demo_command

    return execute(demo_command.demo(out, as_json=json), as_json=json)


def run(
    config: Path,
    /,
    *,
    set_: Set | None = None,
    out: Path = Path(),
    name: str | None = None,
    timeout: _Timeout = None,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
    emulator: Flag = False,
    dry_run: Flag = False,
    force: Flag = False,
    json: Json = False,
) -> int:
    """Submit one job, follow it and download its model.

    Args:
        config: TOML or JSON file with the fields of the bridge's API.
        set_: Change a field, as field=value; may be given again.
        out: Folder for the archive.
        name: File name; may hold {task_id}, {job_id}, {label}, {model} and {digest}.
            {task_id}.zip if not given, and {job_id}.zip at the relay.
        timeout: Seconds to wait at most; the task goes on after that.
        service: Where the job is sent. At the relay this command must run until the job ends: somebody has to validate
            the training, or it is lost (and refunded).
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        emulator: Use an emulated bridge (or relay) on this machine instead of a real one.
        dry_run: Show what would be trained, like check, look at the folder and the name, and send nothing.
        force: Send it even if it cannot work.
        json: Print the result as JSON on standard output, progress on standard error.
    """
    if dry_run:
        from crynux_async.backends.relay.arguments import RELAY_FACTS
        from crynux_async.cli import check as check_command
        from crynux_async.training.service import BRIDGE_FACTS

        def look() -> Exit:
            fee = float(service.settings().fee)
            facts = attrs.evolve(RELAY_FACTS, fee_cnx=fee) if service.relay else BRIDGE_FACTS
            return check_command.dry_run(config, set_ or [], out, name, service=facts, force=force, as_json=json)

        return guard(look, as_json=json)
    from crynux_async.cli import run as run_command

    work = run_command.run(
        config,
        set_ or [],
        out,
        name,
        timeout,
        service=service,
        ledger=ledger,
        emulated=emulator,
        force=force,
        as_json=json,
    )
    return execute(work, as_json=json)


def download(
    task_id: str,
    /,
    *,
    out: Path = Path(),
    name: str | None = None,
    timeout: _Timeout = None,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Follow a task that the service already has, and download its model when it is ready.

    Args:
        task_id: The task's id at the bridge, or its commitment at the relay; or its job, as 'jobs' lists it.
        out: Folder for the archive.
        name: File name; may hold {task_id}, and is {task_id}.zip if not given; {job_id}.zip at the relay.
        timeout: Seconds to wait at most; the task goes on after that.
        service: Where it is.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON on standard output, progress on standard error.
    """
    from crynux_async.cli import run as run_command

    work = run_command.download(task_id, out, name, timeout, service=service, ledger=ledger, as_json=json)
    return execute(work, as_json=json)


def emulator(
    *,
    relay: Flag = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    control_port: int | None = None,
    nodes: int | None = None,
    speed: float = 10.0,
    rate_limit: int = 60,
    folder: Path | None = None,
    config: Path | None = None,
    balance: float = 1000.0,
    json: Json = False,
) -> int:
    """Run an emulated bridge that answers like the real one, and print its address and a ready key; or a relay.

    With --config it starts as the real program does in a bridge's folder, and checks what that checks.

    It prints no key then, and where something is wrong it ends with the real one's words and exit code.

    Args:
        relay: Run an emulated relay instead, and print its address and the file of a wallet with money.
        host: Address to listen on; with one that other machines can reach, a token for the control plane is printed.
        port: Port to listen on; 0 for any that is free. 5028 for a bridge and 5029 for a relay if not given.
        control_port: With --relay, a port for POST /ctl, where deposits are made and nodes get stakes.
        nodes: With --relay, how many nodes work by themselves: 3 if not given, none with a control port.
        speed: Seconds of training that pass in one real second; rate limit and deadlines are not sped up.
        rate_limit: Creates a minute for the printed key.
        folder: Where to keep jobs, keys and archives, for a later start; a temporary folder if not given.
        config: A folder that 'bridge init' has written; host, port, keys and jobs are what it says.
        balance: CNX that the wallet is said to hold, with --config; a relay on this machine is asked instead.
        json: Print address and key as JSON.
    """
    from crynux_async.cli import emulator as emulator_command

    if config is not None:
        from crynux_async.cli import emulator_folder

        return execute(emulator_folder.serve(config, speed, balance))
    options = emulator_command.Options(host=host, port=port, speed=speed, folder=folder, as_json=json)
    if relay:
        return execute(emulator_command.serve_relay(options, control_port, nodes), as_json=json)
    if control_port is not None or nodes is not None:
        return execute(emulator_command.refuse("--control-port and --nodes go with --relay"), as_json=json)
    return execute(emulator_command.serve(options, rate_limit), as_json=json)
