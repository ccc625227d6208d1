"""The command line in processes of its own.

``start`` starts the program as a shell does. ``run_cli`` and ``call`` run a command to its end in a process that is
forked off one which has loaded the package already: what a command loads takes longer than what most of them do, and
the tests run hundreds. It has the arguments, environment, folder and output that it would have otherwise, and ends as
an interpreter does; only what Python reads of its environment as it starts must be the same for all.
"""

import asyncio
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crynux_async.emulator import Emulator

_MOST_SECONDS = 60
_HEAD_BYTES = 4
_LOADED = (
    "crynux_async.cli.app",
    "crynux_async.cli.archive",
    "crynux_async.cli.check",
    "crynux_async.cli.dataset",
    "crynux_async.cli.jobs",
    "crynux_async.cli.resume",
    "crynux_async.cli.run",
    "crynux_async.backends.bridge.backend",
    "crynux_async.backends.relay.backend",
    "crynux_async.emulator",
    "crynux_async.ledgers.sqlite.ledger",
    "crynux_async.sweeps",
)
_READ_BY_PYTHON = ("PYTHON", "LANG", "LC_")


def environment(bridge: Emulator | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a user who has no home, and the key of a bridge if one is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CRYNUX_")}
    clean |= {
        "COLUMNS": "80",
        "PYTHONWARNINGS": "error",
        "CRYNUX_MIN_POLL_INTERVAL": "0.2",
        "CRYNUX_POLL_DELAY": "0.000001",
        "HOME": "/nonexistent",
        "CRYNUX_LEDGER": "jobs.db",
    }
    if bridge is not None:
        clean |= {"CRYNUX_BASE_URL": bridge.url, "CRYNUX_API_KEY": bridge.new_key()}
    return clean | more


async def start(*arguments: str, env: Mapping[str, str], cwd: Path) -> Process:
    """Start a command."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "crynux_async.cli", *arguments, cwd=cwd, env=env, stdout=PIPE, stderr=PIPE
    )


async def run_cli(*arguments: str, env: Mapping[str, str], cwd: Path) -> tuple[int, str, str]:
    """Run a command to its end, and return its exit code and what it printed on standard output and error."""
    done = await asyncio.to_thread(call, *arguments, env=env, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def call(*arguments: str, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. It blocks."""
    if _read_by_python(env) != _read_by_python(environment()) or "CRYNUX_LOG" in env:
        command = [sys.executable, "-m", "crynux_async.cli", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_MOST_SECONDS, check=False
        )
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        code = _parent().run(arguments, env, cwd, out.fileno(), err.fileno())
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, code, *texts)


def _read_by_python(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_BY_PYTHON)}


@functools.cache
def _parent() -> "_Parent":
    return _Parent()


class _Parent:
    """The process that the commands are forked off; it ends with this one."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair()
        self._one_at_a_time = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=Path(__file__).parents[1],
                env=environment(),
                pass_fds=[theirs.fileno()],
            )

    def run(self, arguments: tuple[str, ...], env: Mapping[str, str], cwd: Path, out: int, err: int) -> int:
        """Run a command, and return its exit code, negative where a signal ended it."""
        order = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd)}).encode()
        mine, theirs = socket.socketpair()
        with mine, theirs, mine.makefile("r") as answers:
            with self._one_at_a_time:
                head = len(order).to_bytes(_HEAD_BYTES, "big")
                socket.send_fds(self._orders, [head], [theirs.fileno(), out, err])
                self._orders.sendall(order)
            theirs.close()
            pid = int(answers.readline())
            mine.settimeout(_MOST_SECONDS)
            try:
                return os.waitstatus_to_exitcode(int(answers.readline()))
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise


def _serve(orders: socket.socket) -> dict[str, Any]:
    """Fork for every order that comes, and return in the forked process what it is to do."""
    for name in _LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # Nobody waits for those who carry orders out.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with orders:
        while True:
            head, lines, _, _ = socket.recv_fds(orders, _HEAD_BYTES, 3)
            if not head:  # who gives them has ended
                sys.exit()
            length = int.from_bytes(head, "big")
            order: dict[str, Any] = json.loads(orders.recv(length, socket.MSG_WAITALL))
            if os.fork() == 0:
                break
            for line in lines:
                os.close(line)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _carry_out(order, *lines)
    return order


def _carry_out(order: Mapping[str, Any], answers: int, out: int, err: int) -> None:
    """Return in one more process, which is the command; this one waits for its end and tells it."""
    if (pid := os.fork()) != 0:
        os.write(answers, f"{pid}\n".encode())
        os.write(answers, f"{os.waitpid(pid, 0)[1]}\n".encode())
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(here, there)
        os.close(here)
    os.close(answers)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])


if __name__ == "__main__":
    _order = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = ["crynux-async", *_order["arguments"]]
    importlib.import_module("crynux_async.cli").main()
