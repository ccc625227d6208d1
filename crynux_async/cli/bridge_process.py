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
from crynux_async.errors import UsageError

_STOP_WAIT = 15.0
_KILL_WAIT = 5.0
_LOOK_EVERY = 0.1
_TAIL_BYTES = 256 * 1024


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
                    start_new_session=True,
                )
        except OSError as error:
            raise UsageError(f"{self._program} cannot be started: {error.strerror}") from error
        self._process = process
        self._pid_file.unlink(missing_ok=True)
        write_private(self._pid_file, f"{process.pid} {_started(process.pid)}\n")

    def is_running(self) -> bool:
        """Return whether the program runs; a number that another program has now is recognised."""
        if self._process is not None:
            return self._process.poll() is None
        pid, started = self._known()
        return pid is not None and _is_alive(pid) and started == _started(pid)

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
        """End the program."""
        pid, _ = self._known()
        was_running = self.is_running() and pid is not None
        for number, patience in ((signal.SIGTERM, _STOP_WAIT), (signal.SIGKILL, _KILL_WAIT)):
            if not was_running or pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._ends_within(patience):
                break
        self._pid_file.unlink(missing_ok=True)
        return was_running

    def output(self) -> str:
        """Return the end of what the program has said."""
        try:
            with self._output.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _ends_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_EVERY)
        return True

    def _known(self) -> tuple[int | None, str]:
        try:
            pid, _, started = self._pid_file.read_text(encoding="utf-8").strip().partition(" ")
            return int(pid), started
        except (OSError, ValueError):
            return None, ""


class ContainerRun:
    """A bridge that runs in the containers of its compose file.

    Args:
        folder: The bridge's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self) -> None:
        """Start the containers anew, so that what they say begins here."""
        for left in (PID_FILE, OUTPUT_FILE):
            (self._folder / left).unlink(missing_ok=True)
        done = self._compose("up", "--detach", "--force-recreate", "bridge")
        if done.returncode:
            raise UsageError(f"docker compose could not start the bridge: {_first_line(done.stderr)}")

    def is_running(self) -> bool:
        """Return whether the bridge's container runs."""
        done = self._compose("ps", "--quiet", "--status", "running", "bridge")
        return done.returncode == 0 and bool(done.stdout.strip())

    def stop(self) -> bool:
        """Stop the containers."""
        was_running = self.is_running()
        self._compose("down")
        return was_running

    def output(self) -> str:
        """Return the end of what the bridge's container has said."""
        return self._compose("logs", "--no-color", "--no-log-prefix", "--tail", "400", "bridge").stdout

    def _compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _docker(["compose", *arguments], cwd=self._folder)


def docker_error() -> str:
    """Return why docker with compose cannot be used, or ""."""
    try:
        done = _docker(["compose", "version"], cwd=Path.cwd())
    except UsageError as error:
        return str(error)
    return "" if done.returncode == 0 else _first_line(done.stderr)


def run_to_start(folder: Path, program: Path | None) -> BridgeRun:
    """Return how a bridge is to run: as the program that is named or that runs already, or in a container."""
    known = ProgramRun(folder, program)
    return known if program is not None or known.is_running() else ContainerRun(folder)


def last_run(folder: Path) -> BridgeRun:
    """Return how a bridge runs, or ran last."""
    was_program = (folder / PID_FILE).exists() or (folder / OUTPUT_FILE).exists()
    return ProgramRun(folder) if was_program else ContainerRun(folder)


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


def _is_alive(pid: int) -> bool:
    """Return whether a process of ours has this number; one that has ended and waits to be noticed is noticed."""
    try:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since the boot, so that a number used again is recognised."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "unknown"
