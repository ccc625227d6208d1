"""The names of all commands, and what the list of them says.

A command is loaded when it is called, and imports what it does only then: ``--help`` needs no HTTP client, ``check`` no
database, and none of them the others.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cyclopts import App, CycloptsError

from crynux_async.cli.exits import Exit, guard, show_error
from crynux_async.errors import UsageError
from crynux_async.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

# Where each stands, and the first line of what it says about itself.
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "demo": (
        "run_commands:demo",
        "Run a small sweep on an emulated bridge on this machine: no account, no GPU, under a minute.",
    ),
    "check": (
        "check_commands:check",
        "Show what would be trained, what it costs, and what cannot work or will surprise you; nothing is sent.",
    ),
    "explain": (
        "check_commands:explain",
        "Explain a code: what happens, an example, what to do, and where the rule comes from.",
    ),
    "dataset": (
        "dataset_commands:app",
        "Check a data set, or the address of one, the way the nodes read it, and pack one for them.",
    ),
    "run": ("run_commands:run", "Submit one job, follow it and download its model."),
    "download": (
        "run_commands:download",
        "Follow a task that the service already has, and download its model when it is ready.",
    ),
    "inspect": (
        "archive_commands:inspect",
        "Check every byte and weight of a downloaded archive, and show what was trained.",
    ),
    "export": (
        "archive_commands:export",
        "Write the LoRA of a downloaded archive as one safetensors file that loads completely, and say how to use it.",
    ),
    "merge": (
        "archive_commands:merge",
        "Write several LoRAs of one base model as one file that does exactly what they do together.",
    ),
    "emulator": (
        "run_commands:emulator",
        "Run an emulated bridge that answers like the real one, and print its address and a ready key; or a relay.",
    ),
    "jobs": ("job_commands:jobs", "List every job that was ever submitted from here."),
    "board": (
        "job_commands:board",
        "Show all jobs and sweeps in a browser, as they go. It only reads: nothing is sent, followed or changed.",
    ),
    "resume": (
        "job_commands:resume",
        "Go on with every unfinished job: follow it to its end, and fetch the models that were asked for.",
    ),
    "cancel": (
        "job_commands:cancel",
        "Cancel jobs: what was not sent is not sent, and a task that waits for a node at the relay is refunded.",
    ),
    "abandon": (
        "job_commands:abandon",
        "Give jobs up. A task that runs goes on: a bridge's is paid for; the relay refunds one that nobody validates.",
    ),
    "retry": ("job_commands:retry", "Send jobs again, each as another try of the same job: by name, or by state."),
    "reconcile": (
        "job_commands:reconcile",
        "Look for the tasks of jobs whose create has an unknown outcome, only where they can be.",
    ),
    "spent": (
        "job_commands:spent",
        "Show what all jobs have cost. With --relay the ledger is compared with the relay's own list, to the wei.",
    ),
    "bridge": ("bridge_commands:app", "Run a bridge of your own: from a wallet to a working key with init and up."),
    "ledger": ("ledger_commands:app", "Check, migrate, trim and move the ledger in which jobs are remembered."),
    "sweep": ("sweep_commands:app", "Run a set of points, once each, through any crash; see the results."),
}

# Where cyclopts would write "[ARGS...]", or not that there may be several.
_USAGES: Final = {
    "abandon": "[OPTIONS] JOB...",
    "cancel": "[OPTIONS] JOB...",
    "explain": "[OPTIONS] [CODES...]",
    "merge": "--out PATH [OPTIONS] ARCHIVES...",
    "retry": "[OPTIONS] [JOB...]",
}

_FLAGS: Final = (("--help (-h)", "Display this message and exit."), ("--version (-V)", "Display application version."))
_NAME: Final = "crynux-async"
_HELP: Final = (
    "Fine-tune Stable Diffusion LoRA models on the Crynux Network.\n\n"
    "The key comes from CRYNUX_API_KEY, the bridge from CRYNUX_BASE_URL, or both from "
    "~/.config/crynux-async/settings.toml."
)
_EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 a job ended badly or its model is worthless, 2 usage, config or settings, 3 the bridge "
    "refused or could not be reached, 4 the outcome of a create is unknown, 5 a download failed or an archive "
    "cannot be read, 6 waiting timed out or something is left undone, 7 the ledger cannot be used, 8 standard "
    "output or a file on this machine cannot be used, 70 a bug in this program, 130 interrupted, 143 ended by "
    "SIGTERM."
)


def make_app() -> App:
    """Return the command line."""
    app = App(
        name=_NAME,
        # Not markdown: what draws that takes longer to load than all commands.
        help_format="plaintext",
        help=_HELP,
        help_epilogue=_EXIT_CODES,
        version=__version__,
        version_flags=["--version", "-V"],
    )
    for name, (place, _) in COMMANDS.items():
        usage = {"usage": f"Usage: {_NAME} {name} {_USAGES[name]}"} if name in _USAGES else {}
        app.command(f"crynux_async.cli.{place}", name=name, **usage)
    return app


def print_list(console: "Console") -> None:
    """Print how the program is called, and all commands."""
    from crynux_async.cli.command_list import print_commands  # here: no command draws it

    shown = [(name, COMMANDS[name][1]) for name in sorted(COMMANDS)]
    print_commands(console, usage=f"{_NAME} COMMAND", about=_HELP, commands=[*shown, *_FLAGS], after=_EXIT_CODES)


def start() -> None:
    """Do what the words of this process ask for, and end it."""
    words = sys.argv[1:]
    sys.exit(guard(lambda: _called(words)))


def _called(words: list[str]) -> int:
    try:
        app = make_app()
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        if command == app.help_print and not app.parse_commands(bound.arguments["tokens"])[0]:
            print_list(bound.arguments["console"])
            return Exit.DONE
        return command(*bound.args, **bound.kwargs) or Exit.DONE
    # Here and not by cyclopts, which would print it in a frame and end with 1, the code of a job that ended badly.
    except CycloptsError as error:
        show_error(UsageError(_explained(error, words)), as_json="--json" in words)
        return Exit.USAGE


def _explained(error: CycloptsError, words: Sequence[str]) -> str:
    """Return what is wrong with the words, and which command's help says what is right."""
    from cyclopts import UnusedCliTokensError

    before = words[0].startswith("-")
    command = next((word for word in words if word in COMMANDS), None) if before else None
    if command is not None:
        wrong = f"{words[0]} comes behind the command, as in 'crynux-async {command} {words[0]}'."
    elif before:
        unknown = next((word for word in words if not word.startswith("-")), words[0])
        wrong = f"There is no command {unknown!r}."
    elif isinstance(error, UnusedCliTokensError):
        wrong = f"Nothing takes {' '.join(map(repr, error.unused_tokens or ()))}."
    else:
        wrong = str(error).strip()
    return f"{wrong} See '{' '.join(('crynux-async', *(error.command_chain or ())))} --help'"
