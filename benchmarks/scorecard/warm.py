"""Child processes that begin where the imports end: forked from one process that has everything imported.

Each is a process of its own all the same, with its own threads, files and death. What it saves is the second that an
interpreter needs to start, and several under strace, which looks at every system call of the imports too. strace is
attached before the program's first line, so that its counts begin there, and every call of the program is among them.
"""

import asyncio
import contextlib
import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from benchmarks.scorecard.processes import (
    FILE_CHANGES,
    ROOT,
    TIMEOUT,
    Ended,
    Syscall,
    child_environment,
    injecting,
    parse_log,
    require_tool,
)

_IMPORTED = (
    *("benchmarks.scorecard.submit_child", "crynux_async.cli.app", "crynux_async.ledgers.sqlite.ledger", "cattrs"),
    *("rich.live", "rich.table", "multiprocessing.popen_forkserver"),
)
_PR_SET_PTRACER = 0x59616D61
_ANYBODY = ctypes.c_ulong(-1)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["__main__", *_IMPORTED])


@attrs.frozen(kw_only=True)
class Program:
    """What a child process runs.

    Attributes:
        module: Where its ``main()`` is.
        arguments: What its command line says.
    """

    module: str
    arguments: Sequence[str]

    @property
    def command(self) -> list[str]:
        """The command that runs it in an interpreter of its own."""
        return [sys.executable, "-m", self.module, *self.arguments]


@attrs.define(eq=False, kw_only=True)
class Child:
    """A child process that runs.

    Attributes:
        pid: Its number.
        out: What it writes to standard output.
        err: What it writes to standard error.
    """

    pid: int
    out: asyncio.StreamReader
    err: asyncio.StreamReader
    _process: multiprocessing.process.BaseProcess
    _go: Connection

    def go(self) -> None:
        """Let the program begin."""
        self._go.send_bytes(b"go")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def ended(self, timeout: float = TIMEOUT) -> Ended:
        """Wait for its end.

        Raises:
            AssertionError: It hangs.
        """
        try:
            async with asyncio.timeout(timeout):
                out, err = await self.out.read(), await self.err.read()
                await self._exit()
        except TimeoutError:
            self.send(signal.SIGABRT)  # it says where it stands
            threads = (await self.err.read()).decode()
            raise AssertionError(f"process {self.pid} still runs after {timeout:g} s:\n{threads}") from None
        assert self._process.exitcode is not None
        return Ended(code=self._process.exitcode, out=out.decode(), err=err.decode())

    async def kill(self) -> None:
        """Leave nothing of it and of what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.send(signal.SIGKILL)  # it may not have got as far as to lead a group
        await self._exit()
        self._process.close()

    async def _exit(self) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()


@asynccontextmanager
async def forked(program: Program, *, env: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
    """Provide a child process whose program has not begun, and leave nothing of it.

    Args:
        program: What it runs after ``go()``.
        env: As for ``processes.started``.
    """
    pipes = [_forks.Pipe(duplex=False) for _ in range(3)]
    (out, its_out), (err, its_err), (its_go, go) = pipes
    whole = {**child_environment(), **(env or {})}
    process = _forks.Process(target=_begin, args=(program, whole, its_go, its_out, its_err), daemon=True)
    process.start()
    assert process.pid is not None
    for end in (its_out, its_err, its_go):
        end.close()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(go.close)
        child = Child(
            pid=process.pid, out=await _reader(stack, out), err=await _reader(stack, err), process=process, go=go
        )
        stack.push_async_callback(child.kill)
        yield child


async def run(program: Program, *, env: Mapping[str, str] | None = None) -> Ended:
    """Run a program to its end."""
    async with forked(program, env=env) as child:
        child.go()
        return await child.ended()


async def run_killed_at(program: Program, syscall: str, nth: int, *, env: Mapping[str, str] | None = None) -> Ended:
    """Run a program that is killed just before its ``nth`` system call of a kind; arguments as in ``processes``."""
    return await _run_traced(program, ["-o", os.devnull, *injecting(syscall, nth, "signal=KILL")], env)


async def run_failing_at(
    program: Program, syscall: str, nth: int, error: str, *, env: Mapping[str, str] | None = None
) -> Ended:
    """Run a program whose ``nth`` system call of a kind fails; arguments as in ``processes``."""
    return await _run_traced(program, ["-o", os.devnull, *injecting(syscall, nth, f"error={error}")], env)


async def trace(
    program: Program, syscalls: Sequence[str] = FILE_CHANGES, *, env: Mapping[str, str] | None = None
) -> tuple[Ended, list[Syscall]]:
    """Run a program to its end and return its system calls in the order in which they began."""
    with TemporaryDirectory(prefix="strace-") as folder:
        log = Path(folder) / "log"
        wanted = ",".join(f"?{name}" for name in syscalls)
        ended = await _run_traced(program, ["-y", "-o", str(log), "-e", f"trace={wanted}"], env)
        return ended, list(parse_log(log.read_text(errors="replace")))


async def _run_traced(program: Program, options: Sequence[str], env: Mapping[str, str] | None) -> Ended:
    async with forked(program, env=env) as child:
        command = [require_tool("strace"), "-f", *options, "-p", str(child.pid)]
        tracer = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert tracer.stderr is not None
        try:
            said = await tracer.stderr.readline()
            assert said.endswith(b"attached\n"), f"strace did not attach: {said!r}"
            child.go()
            listening = asyncio.create_task(tracer.stderr.read())
            ended = await child.ended()
            await listening
            await tracer.wait()
        finally:
            if tracer.returncode is None:
                tracer.kill()
                await tracer.wait()
        return ended


async def _reader(stack: contextlib.AsyncExitStack, end: Connection) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    file = os.fdopen(os.dup(end.fileno()), "rb", 0)
    end.close()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    stack.callback(pipe.close)
    return reader


def _begin(program: Program, env: Mapping[str, str], go: Connection, out: Connection, err: Connection) -> None:
    """Become a program as it were started from a shell, when it is told to."""
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    for end, number in ((out, 1), (err, 2)):
        os.dup2(end.fileno(), number)
        end.close()
    with contextlib.suppress(OSError, AttributeError):  # strace is not an ancestor of this process
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    faulthandler.enable(2)
    sys.argv = [program.module, *program.arguments]
    main = importlib.import_module(program.module).main
    go.recv_bytes()
    go.close()
    sys.exit(main())
