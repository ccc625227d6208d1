"""Downloads that need a process of their own: ``python killed_download.py SCENARIO FOLDER``.

Prints one JSON line: at how many steps a process was killed, and every violation that was found.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from crynux_async.downloads import disk
from crynux_async.downloads.pace import DownloadOptions
from crynux_async.downloads.transfer import DownloadedFile, download
from crynux_async.errors import CorruptArchiveError, DownloadError, NotFoundError
from crynux_async.testing import virtual_time_run
from tests.fake_result import MONDAY, TUESDAY, Answer, FakeService, some_bytes, verify_is

CONTENT = some_bytes(8000)
OLD = some_bytes(8000, "old")
OPTIONS = DownloadOptions(chunk_bytes=2000, free_space_margin=0)
_STEPS = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.truncate", "fcntl.flock"}


def fetch(service: FakeService, path: Path, good: bytes = CONTENT) -> DownloadedFile:
    async def main() -> DownloadedFile:
        return await download(service.open_result, path, verify=verify_is(good), options=OPTIONS, adopt=True)

    done: DownloadedFile = virtual_time_run(main)
    return done


def plain(path: Path, step: Callable[[], None]) -> None:
    """Fetch with a cut in the middle."""
    fetch(FakeService(CONTENT, *(Answer(cut_after=5000, on_piece=lambda _: step()) for _ in range(2))), path)


def changed(path: Path, step: Callable[[], None]) -> None:
    """Fetch a result of which another version is here in part."""
    old = FakeService(OLD, Answer(cut_after=5000), Answer(error=NotFoundError("gone")), last_modified=MONDAY)
    try:
        fetch(old, path)
    except NotFoundError:
        step()
    fetch(FakeService(CONTENT, Answer(on_piece=lambda _: step()), last_modified=TUESDAY), path)


def corrupt(path: Path, step: Callable[[], None]) -> None:
    """Fetch a result that is never good."""
    try:
        fetch(FakeService(OLD, Answer(on_piece=lambda _: step())), path)
    except CorruptArchiveError:
        step()


def in_child(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked process; return its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int, folder: Path, scenario: Callable[[Path, Callable[[], None]], None]) -> None:
    """Run a scenario and die before its step ``number``, counted from 1."""
    left = number

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "fcntl.flock" or (event in _STEPS and str(arguments[0]).startswith(str(folder))):
            step()

    fsync = os.fsync

    def counted_fsync(descriptor: int) -> None:
        step()
        fsync(descriptor)

    os.fsync = counted_fsync  # type: ignore[assignment]
    sys.addaudithook(hook)
    scenario(folder / "7.zip", step)


def violations(folder: Path) -> list[str]:
    """Return what must not be on disk, whenever a process was killed."""
    found = []
    final = folder / "7.zip"
    if final.exists() and final.read_bytes() != CONTENT:
        found.append("the final file is not whole")
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    if sum(name == "7.zip.part" for name in names) > 1 or any(name not in _ALLOWED for name in names):
        found.append(f"unexpected files: {sorted(names)}")
    return found


_ALLOWED = {"7.zip", "7.zip.part", "7.zip.part.json", "7.zip.part.new", "7.zip.part.json.new", "7.zip.corrupt"}


def run(scenario: Callable[[Path, Callable[[], None]], None], root: Path) -> dict[str, Any]:
    """Kill a process at every step of a scenario, and let another one finish each time."""
    found: list[str] = []
    number = 0
    fetch(FakeService(CONTENT), root / "7.zip")  # what this imports is not imported again by each process
    while True:
        number += 1
        folder = root / str(number)
        code = in_child(lambda folder=folder, number=number: killed_at(number, folder, scenario))  # type: ignore[misc]
        if code == 0:
            return {"kills": number - 1, "violations": found}
        if code != -signal.SIGKILL:
            return {"kills": number - 1, "violations": [*found, f"step {number}: exit code {code}"]}
        found += [f"step {number}: {violation}" for violation in violations(folder)]
        date = TUESDAY if scenario is changed else MONDAY
        if in_child(lambda folder=folder, date=date: finish(folder, date)):  # type: ignore[misc]
            found.append(f"step {number}: the next process did not finish, or not with what was here")
        left = {path.name for path in folder.iterdir()} - {"7.zip.corrupt"}
        if left != {"7.zip"} or (folder / "7.zip").read_bytes() != CONTENT:
            found.append(f"step {number}: in the end there are {sorted(left)}")


def finish(folder: Path, date: str) -> None:
    """Finish what a killed process left, without fetching again what is here of this version."""
    note, part, final = folder / "7.zip.part.json", folder / "7.zip.part", folder / "7.zip"
    here = final if final.exists() else part
    known = json.loads(note.read_bytes())["last_modified"] == date if note.exists() else final.exists()
    kept = here.stat().st_size if known and here.exists() else 0
    spoilt = kept > 0 and not CONTENT.startswith(here.read_bytes())
    done = fetch(FakeService(CONTENT, last_modified=date), final)
    if done.fetched_bytes != len(CONTENT) - kept + (len(CONTENT) if spoilt else 0):
        raise AssertionError(f"{kept} bytes were here and {done.fetched_bytes} were fetched")


def together(root: Path) -> dict[str, Any]:
    """Let two processes fetch one file at the same time, without a working lock."""
    fcntl.flock = lambda *_: None
    found: list[str] = []
    for number in range(20):
        path = root / str(number) / "7.zip"
        both = [os.fork() or _fetch_and_exit(path, number, each) for each in (0, 1)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in both]
        if codes != [0, 0]:
            found.append(f"round {number}: exit codes {codes}")
        if path.read_bytes() != CONTENT or {each.name for each in path.parent.iterdir()} != {"7.zip"}:
            found.append(f"round {number}: {sorted(each.name for each in path.parent.iterdir())}")
    return {"violations": found}


def _fetch_and_exit(path: Path, number: int, each: int) -> int:
    code = 1
    try:
        fetch(FakeService(CONTENT, Answer(piece=50 + 150 * each, cut_after=number * 400)), path)
        code = 0
    finally:
        os._exit(code)


def kept(root: Path) -> dict[str, Any]:
    """Let another program ask for more of a disk of 2 MiB than a download leaves."""
    found: list[str] = []
    path, content = root / "7.zip", some_bytes(1 << 20)

    def fill(number: int) -> None:
        if number == 100:
            try:
                (root / "filler").write_bytes(bytes((1 << 20) + 300_000))
            except OSError as error:
                found.append(os.strerror(error.errno or 0))

    fetch(FakeService(content, Answer(on_piece=fill)), path, content)
    return {"refused": found, "is_whole": path.read_bytes() == content}


def full(root: Path) -> dict[str, Any]:
    """Run out of space in a folder of 2 MiB that keeps no room for files, and go on when there is space again."""
    disk._fallocate = lambda: None  # type: ignore[assignment]
    found: list[str] = []
    path, filler, content = root / "7.zip", root / "filler", some_bytes(1 << 20)

    def fill(number: int) -> None:
        if number == 100:
            filler.write_bytes(bytes((1 << 20) + 300_000))

    try:
        fetch(FakeService(content, Answer(on_piece=fill)), path, content)
        found.append("there was space after all")
    except DownloadError as error:
        if "is full" not in str(error):
            found.append(str(error))
    kept = path.with_name("7.zip.part").read_bytes()
    if not content.startswith(kept) or len(kept) < 200_000 or path.exists():
        found.append(f"{len(kept)} bytes were kept")
    filler.unlink()
    done = fetch(FakeService(content), path, content)
    if (done.resumed_from, path.read_bytes()) != (len(kept), content):
        found.append(f"continued from {done.resumed_from}")
    return {"violations": found}


if __name__ == "__main__":
    wanted, into = sys.argv[1], Path(sys.argv[2])
    work: dict[str, Callable[[Path], dict[str, Any]]] = {
        "plain": partial(run, plain),
        "changed": partial(run, changed),
        "corrupt": partial(run, corrupt),
        "together": together,
        "full": full,
        "kept": kept,
    }
    sys.stdout.write(json.dumps(work[wanted](into)) + "\n")
