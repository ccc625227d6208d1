"""Child processes, and what can be done to them: killed at a system call, refused one, run on a disk that is too small.

strace counts injections per thread and per system call. So a program that is to be killed at every one of its calls
should make all calls of a kind in one thread; ``kill_points`` refuses a program that does not.
"""

import asyncio
import compileall
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.scorecard.case import SkippedError

CHILDREN = "benchmarks.scorecard.children"
TIMEOUT = 120.0
ROOT = Path(__file__).parents[2]
_LINE = re.compile(r"(?P<thread>\d+) +(?P<name>[a-z0-9_]+)\((?P<text>.*)")
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<name>[a-z0-9_]+) resumed>(?P<text>.*)")
_UNFINISHED = " <unfinished ...>"

FILE_CHANGES = (
    *("openat", "write", "writev", "pwrite64", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync", "mkdir"),
    *("mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
)
"""System calls that change files or make changes durable."""


@attrs.frozen(kw_only=True)
class Ended:
    """How a child process ended.

    Attributes:
        code: Its exit code, or minus the signal that ended it.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int
    out: str
    err: str

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL


@attrs.frozen(kw_only=True)
class Syscall:
    """One system call as strace shows it.

    Attributes:
        thread: Number of the thread that made it.
        name: Its name, such as "openat".
        text: Its arguments and its result; descriptors are followed by the path of their file.
    """

    thread: int
    name: str
    text: str


def require_tool(name: str, package: str = "") -> str:
    """Return the path of a program.

    Args:
        name: What it is called.
        package: The Debian package that has it; by default of the same name.

    Raises:
        SkippedError: It is not installed.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise SkippedError(f"needs {name}: apt install {package or name}")
    return path


def require_strace() -> str:
    """Return the path of strace.

    Raises:
        SkippedError: It is not installed, or may not trace here.
    """
    path = require_tool("strace")
    tried = subprocess.run([path, "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SkippedError(f"strace cannot trace here: {' '.join(tried.stderr.split())}")
    return path


def child(program: str, *arguments: object) -> list[str]:
    """Return the command that runs a program of ``benchmarks.scorecard.children``."""
    return [sys.executable, "-m", CHILDREN, program, *map(str, arguments)]


@contextlib.asynccontextmanager
async def started(
    command: Sequence[str], *, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a command in a process group of its own, and leave none of the group behind.

    Args:
        command: Program and arguments; run where ``benchmarks`` can be imported.
        env: Added to this process's environment, from which every setting of the library is removed.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**child_environment(), **(env or {})},
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> Ended:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        env: As for ``started``.
        timeout: Seconds after which it is taken to hang.

    Raises:
        AssertionError: It hangs.
    """
    async with started(command, env=env) as process:
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate()
        except TimeoutError:
            raise AssertionError(f"{' '.join(command)} still runs after {timeout:g} s") from None
        assert process.returncode is not None
        return Ended(code=process.returncode, out=out.decode(), err=err.decode())


async def run_killed_at(
    command: Sequence[str],
    syscall: str,
    nth: int,
    *,
    paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command that is killed just before its ``nth`` system call of a kind.

    Args:
        command: Program and arguments.
        syscall: Name of the system call.
        nth: Which one of a thread, >= 1.
        paths: Count only calls on these files; empty for all calls.
        env: As for ``started``.

    Returns:
        How it ended: not killed where it made fewer calls.
    """
    return await run(
        _traced(["-o", os.devnull, *_on(paths), *injecting(syscall, nth, "signal=KILL")], command), env=env
    )


async def run_failing_at(
    command: Sequence[str],
    syscall: str,
    nth: int,
    error: str,
    *,
    paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command whose ``nth`` system call of a kind is not carried out and fails.

    Args:
        command: Program and arguments.
        syscall: Name of the system call.
        nth: Which one of a thread, >= 1.
        error: Name of the error, such as "EIO".
        paths: Count only calls on these files; empty for all calls.
        env: As for ``started``.
    """
    options = ["-o", os.devnull, *_on(paths), *injecting(syscall, nth, f"error={error}")]
    return await run(_traced(options, command), env=env)


async def run_always_failing(
    command: Sequence[str],
    syscalls: Sequence[str],
    error: str,
    *,
    paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command none of whose system calls of some kinds is carried out: they all fail.

    Args:
        command: Program and arguments.
        syscalls: Names of system calls; those that this machine does not have are ignored.
        error: Name of the error, such as "EACCES".
        paths: Only calls on these files; empty for all calls.
        env: As for ``started``.
    """
    names = ",".join(f"?{name}" for name in syscalls)
    options = ["-e", f"trace={names}", "-e", f"inject={names}:error={error}"]
    return await run(_traced(["-o", os.devnull, *_on(paths), *options], command), env=env)


async def trace(
    command: Sequence[str],
    syscalls: Sequence[str] = FILE_CHANGES,
    *,
    paths: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
) -> tuple[Ended, list[Syscall]]:
    """Run a command to its end and return its system calls in the order in which they began.

    Args:
        command: Program and arguments.
        syscalls: Names of system calls; those that this machine does not have are ignored.
        paths: Only calls on these files; empty for all calls.
        env: As for ``started``.
    """
    with tempfile.TemporaryDirectory(prefix="strace-") as folder:
        log = Path(folder) / "log"
        wanted = ",".join(f"?{name}" for name in syscalls)
        ended = await run(_traced(["-y", "-o", str(log), *_on(paths), "-e", f"trace={wanted}"], command), env=env)
        return ended, list(parse_log(log.read_text(errors="replace")))


def count_syscalls(calls: Sequence[Syscall]) -> dict[str, int]:
    """Return how many system calls of each kind there are."""
    return dict(Counter(call.name for call in calls))


def kill_points(calls: Sequence[Syscall], at_most: int | None = None) -> list[tuple[str, int]]:
    """Return where a program that makes these calls can be killed: pairs of a system call and its ordinal, in order.

    Args:
        calls: What ``trace`` returned.
        at_most: Return not more than so many of them, evenly spread; None for all.

    Raises:
        AssertionError: A call that changes something cannot be told from an earlier one of another thread.
    """
    made: Counter[tuple[int, str]] = Counter()
    points: dict[tuple[str, int], None] = {}
    for call in calls:
        made[call.thread, call.name] += 1
        point = (call.name, made[call.thread, call.name])
        assert point not in points or "O_RDONLY" in call.text, f"two threads call {call.name}: {call.text}"
        points[point] = None
    every = list(points)
    if at_most is None or at_most >= len(every):
        return every
    return [every[index * len(every) // at_most] for index in range(at_most)]


@contextlib.contextmanager
def on_tmpfs(size: str) -> Iterator[Path]:
    """Provide an empty folder on a file system in memory that holds so much and no more, such as "2m".

    It is mounted in a mount namespace of its own, which ends with the process that holds it, and is reached through
    /proc: by this process and its children, with no trace left on the machine.

    Raises:
        SkippedError: It cannot be mounted here.
    """
    unshare = require_tool("unshare", "util-linux")
    private = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    with tempfile.TemporaryDirectory(prefix="tmpfs-") as place:
        script = 'mount -t tmpfs -o size="$0" none "$1" && echo mounted && exec cat'
        command = [unshare, *private, "sh", "-c", script, size, place]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stderr is not None
            if holder.stdout.readline().strip() != "mounted":
                raise SkippedError(f"cannot mount a tmpfs here: {' '.join(holder.stderr.read().split())}")
            try:
                yield Path(f"/proc/{holder.pid}/root{place}")
            finally:
                holder.stdin.close()


@functools.cache
def _compile() -> None:
    # A child that writes what it has compiled makes system calls that the next child does not make, so that none could
    # be killed at the same one. A child that writes nothing would compile everything again.
    for package in ("benchmarks", "crynux_async"):
        compileall.compile_dir(ROOT / package, quiet=2)


def child_environment() -> dict[str, str]:
    """Return this process's environment without any setting of the library."""
    _compile()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CRYNUX_")}
    return {**inherited, "CRYNUX_SETTINGS": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}


def _traced(options: Sequence[str], command: Sequence[str]) -> list[str]:
    # Not --seccomp-bpf, although it is faster: strace 6.1 then loses count of injections.
    return [require_tool("strace"), "-f", "-qq", *options, "--", *command]


def _on(paths: Sequence[Path]) -> list[str]:
    return [option for path in paths for option in ("-P", str(path))]


def injecting(syscall: str, nth: int, what: str) -> list[str]:
    """Return strace's options that do something at the ``nth`` system call of a kind."""
    return ["-e", f"trace={syscall}", "-e", f"inject={syscall}:{what}:when={nth}"]


def parse_log(log: str) -> Iterator[Syscall]:
    """Yield the calls of a log; one that another thread interrupts is put together again."""
    begun: dict[int, int] = {}
    calls: list[Syscall] = []
    for line in log.splitlines():
        if match := _RESUMED.match(line):
            index = begun.pop(int(match["thread"]), None)
            if index is not None:
                calls[index] = attrs.evolve(calls[index], text=calls[index].text + match["text"])
        elif match := _LINE.match(line):
            thread, text = int(match["thread"]), match["text"]
            if text.endswith(_UNFINISHED):
                begun[thread] = len(calls)
                text = text.removesuffix(_UNFINISHED)
            calls.append(Syscall(thread=thread, name=match["name"], text=text))
    yield from calls
