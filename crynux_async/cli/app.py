"""The commands, and what they say about themselves.

A command imports what it does when it is called: ``--help`` needs no HTTP client, and ``check`` no database.
"""

import sys
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, CycloptsError, Parameter

import crynux_async
from crynux_async.archive.naming import Program
from crynux_async.cli import job_commands
from crynux_async.cli.bridge_commands import bridge_app
from crynux_async.cli.exits import Exit, execute, guard, show_error
from crynux_async.cli.job_commands import Timeout
from crynux_async.cli.ledger_commands import ledger_app
from crynux_async.cli.service_choice import PaidService
from crynux_async.cli.sweep_commands import sweep_app
from crynux_async.datasets.captions import CaptionSource
from crynux_async.errors import UsageError
from crynux_async.training.service import BRIDGE_FACTS

app = App(
    name="crynux-async",
    # Not markdown: what draws that takes longer to load than all commands.
    help_format="plaintext",
    help=(
        "Fine-tune Stable Diffusion LoRA models on the Crynux Network.\n\n"
        "The key comes from CRYNUX_API_KEY, the bridge from CRYNUX_BASE_URL, or both from "
        "~/.config/crynux-async/settings.toml."
    ),
    help_epilogue=(
        "Exit codes: 0 done, 1 a job ended badly or its model is worthless, 2 usage, config or settings, 3 the bridge "
        "refused or could not be reached, 4 the outcome of a create is unknown, 5 a download failed or an archive "
        "cannot be read, 6 waiting timed out or another process holds a job, 7 the ledger cannot be used, 8 standard "
        "output or a file on this machine cannot be used, 70 a bug in this program, 130 interrupted, 143 ended by "
        "SIGTERM."
    ),
    version=crynux_async.__version__,
    version_flags=["--version"],
)

_Set = Annotated[list[str], Parameter(name="--set", negative="", show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative="")]
_Emulator = Annotated[bool, Parameter(negative="")]
_Flag = Annotated[bool, Parameter(negative="")]
_PAID_BRIDGE = PaidService()

job_commands.add_to(app)
app.command(bridge_app())
app.command(ledger_app())
app.command(sweep_app())
_dataset = App(name="dataset", help="Check, pack and publish a data set the way the nodes read it.")
app.command(_dataset)


def start() -> None:
    """Do what the words of this process ask for, and end it."""
    words = sys.argv[1:]
    sys.exit(guard(lambda: _called(words)))


def _called(words: list[str]) -> int:
    try:
        # Returned and not ended with, so that texts of help which nobody takes are treated as those of commands.
        return app(words, exit_on_error=False, print_error=False, result_action="return_value") or Exit.DONE
    # Here and not by cyclopts, which would print it in a frame and end with 1, the code of a job that ended badly.
    except CycloptsError as error:
        message = f"{str(error).strip()} 'crynux-async --help' lists commands, and COMMAND --help its options"
        show_error(UsageError(message), as_json="--json" in words)
        return Exit.USAGE


@app.command
def demo(*, out: Path = Path("crynux-demo"), json: _Json = False) -> int:
    """Run a small sweep on an emulated bridge on this machine: no account, no GPU, under a minute.

    Args:
        out: Folder for the archives, and for a page about them: report.html.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import demo as demo_command

    return execute(demo_command.demo(out, as_json=json), as_json=json)


@app.command
def check(
    config: Path,
    /,
    *,
    set_: _Set | None = None,
    dataset: Path | None = None,
    images: int | None = None,
    fee: float = BRIDGE_FACTS.fee_cnx,
    relay: _Flag = False,
    json: _Json = False,
) -> int:
    """Show what would be trained, what it costs, and what cannot work or will surprise you; nothing is sent.

    The exit code is 0 when it can work, and 2 when it cannot.

    Args:
        config: TOML or JSON file with the fields of the bridge's API.
        set_: Change a field, as field=value; may be given again.
        dataset: The data set's folder or archive on this machine, to be checked with it.
        images: The number of its images, when there is no copy here.
        fee: The service's fee for a round, in CNX.
        relay: As the relay takes it: nothing is replaced, and a job is one round.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.backends.relay.arguments import RELAY_FACTS
    from crynux_async.cli import check as check_command

    def work() -> Exit:
        service = RELAY_FACTS if relay else BRIDGE_FACTS
        changes = set_ or []
        return check_command.check(
            config, changes, dataset=dataset, images=images, fee_cnx=fee, service=service, as_json=json
        )

    return guard(work, as_json=json)


@app.command
def explain(*codes: str, json: _Json = False) -> int:
    """Explain a code: what happens, an example, what to do, and where the rule comes from.

    Args:
        codes: Codes such as CX201, or their beginning, such as CX2, for a list; all of them if not given.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.cli import explain as explain_command

    return guard(lambda: explain_command.explain(codes, as_json=json), as_json=json)


@_dataset.command(name="check")
def check_dataset(
    path: Path,
    /,
    *,
    image_column: str = "image",
    caption_column: str = "text",
    resolution: int = 512,
    center_crop: _Flag = False,
    json: _Json = False,
) -> int:
    """Show what a node would make of a folder or archive: images, captions, and what will not work.

    The exit code is 0 when it can be trained on, and 2 when it cannot.

    Args:
        path: A folder, or a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.
        image_column: The config's dataset_image_column.
        caption_column: The config's dataset_caption_column.
        resolution: The training resolution in pixels.
        center_crop: Whether the config has center_crop.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.cli import dataset as dataset_command

    def work() -> Exit:
        return dataset_command.check(
            path,
            image_column=image_column,
            caption_column=caption_column,
            resolution=resolution,
            center_crop=center_crop,
            as_json=json,
        )

    return guard(work, as_json=json)


@_dataset.command
def pack(
    folder: Path,
    out: Path,
    /,
    *,
    captions: CaptionSource = "auto",
    caption_column: str = "text",
    encoding: str | None = None,
    regularization: _Flag = False,
    overwrite: _Flag = False,
    json: _Json = False,
) -> int:
    """Make the archive that nodes load as intended, or say everything that is wrong.

    Args:
        folder: Images with captions in .txt or .caption files of the same name, or in a metadata.jsonl or .csv.
        out: The archive to write, ending in .zip, outside of the folder.
        captions: Where to take the captions from.
        caption_column: The table's column that holds them.
        encoding: The encoding of captions that are not UTF-8, such as cp1252; they are converted.
        regularization: Pack the images of folders such as reg/1_dog, too.
        overwrite: Replace a file of that name.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import dataset as dataset_command

    def work() -> Exit:
        return dataset_command.pack(
            folder,
            out,
            captions=captions,
            caption_column=caption_column,
            encoding=encoding,
            regularization=regularization,
            overwrite=overwrite,
            as_json=json,
        )

    return guard(work, as_json=json)


@_dataset.command
def check_url(url: str, /, *, timeout: float = 30.0, json: _Json = False) -> int:
    """Send an address the requests of a node, and say whether a node could load a data set from there.

    The exit code is 0 when it could, and 2 when it could not.

    Args:
        url: The address of an archive.
        timeout: Seconds to wait for everything together.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import dataset as dataset_command

    return execute(dataset_command.check_url(url, timeout=timeout, as_json=json), as_json=json)


@app.command
def run(
    config: Path,
    /,
    *,
    set_: _Set | None = None,
    out: Path = Path(),
    name: str | None = None,
    timeout: Timeout = None,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
    emulator: _Emulator = False,
    dry_run: _Flag = False,
    force: _Flag = False,
    json: _Json = False,
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


@app.command
def download(
    task_id: str,
    /,
    *,
    out: Path = Path(),
    name: str | None = None,
    timeout: Timeout = None,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
    json: _Json = False,
) -> int:
    """Follow a task that the service already has, and download its model when it is ready.

    Args:
        task_id: The task's id at the bridge, or its commitment at the relay.
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


@app.command
def inspect(archive: Path, /, *, config: Path | None = None, json: _Json = False) -> int:
    """Check every byte and weight of a downloaded archive, and show what was trained.

    The exit code is 0 for a healthy model, 1 when something is wrong with it, 5 when it cannot be read.

    Args:
        archive: The archive that was downloaded.
        config: TOML or JSON file with what was asked for, to be compared with what is there.
        json: Print everything as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    return guard(lambda: archive_command.inspect(archive, config, as_json=json), as_json=json)


@app.command
def export(
    archive: Path,
    out: Path,
    /,
    *,
    program: Annotated[Program, Parameter(name="--for")] = "all",
    base_model: str | None = None,
    trigger: str | None = None,
    config: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: _Json = False,
) -> int:
    """Write the LoRA of a downloaded archive as one safetensors file that loads completely, and say how to use it.

    Args:
        archive: The archive that was downloaded.
        out: The file to write; its name ends in .safetensors.
        program: What will load it: all makes one file for diffusers, ComfyUI, AUTOMATIC1111 and kohya's sd-scripts.
        base_model: The model that the LoRA was trained on; recorded in the file.
        trigger: The words of the captions that bring out what was trained; web UIs offer them for the prompt.
        config: TOML or JSON file with what was trained; recorded in the file, the data set's address included.
        overwrite: Replace a file of that name.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    def work() -> Exit:
        return archive_command.export(
            archive,
            out,
            program,
            config,
            base_model=base_model,
            trigger=trigger,
            overwrite=overwrite,
            as_json=json,
        )

    return guard(work, as_json=json)


@app.command
def merge(
    archives: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    out: Path,
    weight: Annotated[list[float], Parameter(negative="", show_default=False)] = [],  # noqa: B006  # only read
    program: Annotated[Program, Parameter(name="--for")] = "all",
    base_model: str | None = None,
    trigger: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: _Json = False,
) -> int:
    """Write several LoRAs of one base model as one file that does exactly what they do together.

    Args:
        archives: Archives that were downloaded, or .safetensors files.
        out: The file to write; its name ends in .safetensors.
        weight: How much an archive counts; given once for each, in their order. All count 1 if it is not given.
        program: What will load it: all makes one file for diffusers, ComfyUI, AUTOMATIC1111 and kohya's sd-scripts.
        base_model: The model that the LoRAs need; recorded in the file.
        trigger: The words that bring out what was trained; by default those of the files, one after another.
        overwrite: Replace a file of that name.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import archive as archive_command

    def work() -> Exit:
        return archive_command.merge(
            archives,
            out,
            program,
            weights=weight,
            base_model=base_model,
            trigger=trigger,
            overwrite=overwrite,
            as_json=json,
        )

    return guard(work, as_json=json)


@app.command
def emulator(
    *,
    relay: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    control_port: int | None = None,
    nodes: int | None = None,
    speed: float = 10.0,
    rate_limit: int = 60,
    folder: Path | None = None,
    config: Path | None = None,
    balance: float = 1000.0,
    json: _Json = False,
) -> int:
    """Run an emulated bridge that answers like the real one, and print its address and a ready key; or a relay.

    With --config it starts as the real program does in a bridge's folder, and checks what that checks.

    It prints no key then, and ends with the same words and exit code when something is wrong.

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
