"""A bridge that runs on this machine: as a program, or in a container."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from crynux_async.backends.bridge.deploy_config import OUTPUT_FILE, PID_FILE
from crynux_async.cli.bridge_folder import write_private
from crynux_async.cli.process_table import boot, group_lives, started
from crynux_async.errors import UsageError

# Longer than docker grants, which is 10 s; what has not ended by then is killed.
_STOP_WAIT = 15.0
_KILL_WAIT = 5.0
_LOOK_EVERY = 0.1
# Why a bridge has ended stands at the end, and one that ran for a year may have written a great deal.
_TAIL_BYTES = 256 * 1024
_DOCKER_CURE = "install docker with compose and start it, or use --binary PATH"
_CONTAINER = "in a container\n"  # in the place of a process id


class BridgeRun(Protocol):
    """Something that can be started and stopped."""

    def start(self) -> None:
        """Start it; what it says from now on is in ``output``.

        Raises:
            UsageError: It cannot be started.
        """

    def is_running(self) -> bool:
        """Return whether it runs."""

    def stop(self) -> bool:
        """Stop it and wait for its end; return whether it ran."""

    def output(self) -> str:
        """Return the end of what it has said since its last start."""


class ProgramRun:
    """A bridge that runs as a program of its own and outlives the command that started it.

    The program is the head of a process group, and the group is what runs and is stopped: a script that starts the
    bridge and does not end in ``exec`` would otherwise be stopped alone.

    Args:
        folder: The bridge's folder, in which the program is started, without arguments.
        program: The program, or None where it is only to be looked after.
    """

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        self._folder = folder
        self._program = None if program is None else program.absolute()
        self._pid_file = folder / PID_FILE
        self._output = folder / OUTPUT_FILE
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program with its output in a file."""
        if self._program is None:
            raise UsageError("no program is named: give --binary PATH")
        self._output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._output.open("wb") as output:
                process = subprocess.Popen(  # noqa: S603  # the program that the user named
                    [self._program],
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # A session of its own: Ctrl-C in the terminal, and the terminal's end, are not for it.
                    start_new_session=True,
                )
        except OSError as error:
            raise UsageError(f"{self._program} cannot be started: {error.strerror}") from error
        self._process = process
        self._pid_file.unlink(missing_ok=True)
        # With the time of its start and the boot: the number alone is soon that of another process.
        write_private(self._pid_file, f"{process.pid} {started(process.pid)} {boot()}\n")

    def is_running(self) -> bool:
        """Return whether the program runs; a number that another program has now is recognised."""
        return self._group() is not None

    @property
    def exit_code(self) -> int | None:
        """How the program that was started here has ended, or None."""
        return None if self._process is None else self._process.poll()

    def leave(self) -> None:
        """Let the program go on when this one ends."""
        if self._process is not None:
            self._process.returncode = 0  # or Popen complains that nobody waits for it
            self._process = None

    def stop(self) -> bool:
        """End the program and everything that it has started.

        Raises:
            UsageError: It belongs to another user, or does not end.
        """
        group = self._group()
        for number, patience in ((signal.SIGTERM, _STOP_WAIT), (signal.SIGKILL, _KILL_WAIT)):
            if group is None or self._ends_within(group, number, patience):
                break
        else:
            raise UsageError(
                f"the bridge (process group {group}) cannot be stopped; stop it as the user who started it"
            )
        if self._process is not None:
            self._process.poll()
        self._pid_file.unlink(missing_ok=True)
        return group is not None

    def output(self) -> str:
        """Return the end of what the program has said."""
        try:
            with self._output.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _ends_within(self, group: int, number: int, seconds: float) -> bool:
        # Gone already, or another user's: whether it still runs is looked at next.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        until = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_EVERY)
        return True

    def _group(self) -> int | None:
        """Return the program's process group while anything of it runs, else None."""
        if self._process is not None:
            self._process.poll()  # takes note of its end, so that it does not count as alive
        pid, born, booted = self._known()
        # After a reboot every number is another's.
        if pid is None or booted != boot():
            return None
        # While the group has a member, the system gives its number to no other program.
        head = started(pid)
        is_ours = head in ("", born)
        return pid if is_ours and group_lives(pid) else None

    def _known(self) -> tuple[int | None, str, str]:
        try:
            pid, born, booted = self._pid_file.read_text(encoding="utf-8").split()
            return int(pid), born, booted
        except (OSError, ValueError):
            return None, "", ""


class ContainerRun:
    """A bridge that runs in the containers of its compose file.

    Args:
        folder: The bridge's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self) -> None:
        """Start the containers anew, so that what they say begins here."""
        # What a program has left here would be taken for this start's.
        for left in (PID_FILE, OUTPUT_FILE):
            (self._folder / left).unlink(missing_ok=True)
        write_private(self._folder / PID_FILE, _CONTAINER)
        self._done("start the bridge", "up", "--detach", "--force-recreate", "bridge")

    def is_running(self) -> bool:
        """Return whether the bridge's container runs.

        Raises:
            UsageError: Docker does not say.
        """
        done = self._done("say whether the bridge runs", "ps", "--quiet", "--status", "running", "bridge")
        return bool(done.stdout.strip())

    def stop(self) -> bool:
        """Stop the containers.

        Raises:
            UsageError: Docker could not.
        """
        # Asked before it is stopped: afterwards nobody can tell.
        was_running = self.is_running()
        self._done("stop the bridge", "down")
        (self._folder / PID_FILE).unlink(missing_ok=True)
        return was_running

    def output(self) -> str:
        """Return the end of what the bridge's container has said.

        Raises:
            UsageError: Docker does not show it.
        """
        asked = ("logs", "--no-color", "--no-log-prefix", "--tail", "400", "bridge")
        return self._done("show what the bridge said", *asked).stdout

    def _done(self, what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = _docker(["compose", *arguments], cwd=self._folder)
        if done.returncode:
            unusable = docker_error()  # without compose, docker takes compose's words for its own and says odd things
            if unusable:
                raise UsageError(f"docker cannot be used ({unusable}); {_DOCKER_CURE}")
            raise UsageError(f"docker compose could not {what}: {_first_line(done.stderr)}")
        return done


def docker_error() -> str:
    """Return why docker with compose cannot be used, or ""."""
    try:
        # The first one is answered without the daemon, which the other one asks.
        asked = (_docker(list(words), cwd=Path.cwd()) for words in (("compose", "version"), ("info",)))
        failed = next((done for done in asked if done.returncode), None)
    except UsageError as error:
        return str(error)
    return "" if failed is None else _first_line(failed.stderr)


def run_to_start(folder: Path, program: Path | None) -> BridgeRun:
    """Return how a bridge is to run: as the program that is named or that runs already, or in a container."""
    # A program that runs already goes on, even if none is named: containers beside it would want its port.
    known = ProgramRun(folder, program)
    return known if program is not None or known.is_running() else ContainerRun(folder)


def last_run(folder: Path) -> BridgeRun:
    """Return how a bridge runs, or ran last."""
    with contextlib.suppress(OSError):
        if (folder / PID_FILE).read_text(encoding="utf-8") == _CONTAINER:
            return ContainerRun(folder)
    return ProgramRun(folder) if was_started(folder) else ContainerRun(folder)


def was_started(folder: Path) -> bool:
    """Return whether a bridge was started from here, and not stopped with its container."""
    return (folder / PID_FILE).exists() or (folder / OUTPUT_FILE).exists()


def _docker(arguments: Sequence[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            ["docker", *arguments],  # noqa: S607  # whichever docker the user has
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise UsageError(f"docker is not there ({error.strerror}); install it, or use --binary PATH") from error


def _first_line(text: str) -> str:
    """Return what a command complains of; what follows is how to use it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "it did not say why")
