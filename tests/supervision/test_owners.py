"""The names of lease owners: who is certainly gone, and who only seems to be."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import attrs
import pytest

from crynux_async.supervision import owners
from crynux_async.supervision.owners import Place, is_gone, new_owner

FIRST_NAMESPACE = "4026531836"  # include/linux/proc_ns.h: PROC_PID_INIT_INO = 0xEFFFFFFC
PRINT_OWNER = "from crynux_async.supervision.owners import new_owner; print(new_owner(), flush=True)"


def named(place: Place) -> str:
    return "/".join((*attrs.astuple(place), "0a1b2c3d"))


@pytest.fixture
def ended() -> Place:
    """Return the place of a process that has ended."""
    shown = subprocess.run([sys.executable, "-c", PRINT_OWNER], capture_output=True, text=True, check=True).stdout
    place = Place.of(shown.strip())
    assert place is not None
    return place


def test_owner_of_this_process_is_not_gone() -> None:
    assert not is_gone(new_owner())


def test_owner_of_a_process_that_ended_is_gone(ended: Place) -> None:
    assert is_gone(named(ended))


def test_owner_that_ended_and_was_not_reaped_by_its_parent_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", PRINT_OWNER], stdout=subprocess.PIPE, text=True) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
        assert child.stdout is not None
        assert is_gone(child.stdout.read().strip())


def test_owner_whose_process_number_was_used_again_is_gone() -> None:
    assert is_gone(named(attrs.evolve(Place.here(), started="1")))


@pytest.mark.parametrize(
    "differing",
    [{"namespace": "4026532999"}, {"host": "elsewhere"}, {"namespace": "unknown"}, {"pid": "none"}],
    ids=str,
)
def test_owner_whose_process_number_means_nothing_here_is_not_gone(ended: Place, differing: dict[str, str]) -> None:
    assert not is_gone(named(attrs.evolve(ended, **differing)))


def test_owner_is_not_gone_where_proc_shows_the_processes_of_another_namespace(
    ended: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, readlink = os.getpid(), os.readlink  # as after unshare --pid without --mount-proc: ours is another there
    monkeypatch.setattr(os, "readlink", lambda path: str(number + 1) if path == "/proc/self" else readlink(path))
    owners._here.cache_clear()
    try:
        here = Place.here()
        assert here.namespace == "unknown"
        assert not is_gone(named(attrs.evolve(here, pid=ended.pid, started=ended.started)))
    finally:
        owners._here.cache_clear()


@pytest.mark.parametrize(
    "owner", ["", "somebody", "elsewhere/boot/1/2/3", f"{socket.gethostname()}/boot/1/2/3", "a/b/c/d/e/f/g"]
)
def test_owner_that_cannot_be_judged_is_not_gone(owner: str) -> None:
    assert not is_gone(owner)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Return the place of this process, as if it ran in no container, on a machine with an id."""
    monkeypatch.setattr(owners, "_namespace", lambda: FIRST_NAMESPACE)
    monkeypatch.setattr(owners, "_machine", lambda: "a-machine")
    owners._here.cache_clear()
    yield Place.here()
    owners._here.cache_clear()


def test_place_of_this_process_is_read_once_and_anew_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Place.here()
    reads: list[str] = []
    monkeypatch.setattr(owners, "_namespace", lambda: reads.append("namespace") or "7")
    assert not any(is_gone(new_owner()) for _ in range(20))
    assert reads == []
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert (Place.here().pid, Place.here().namespace) == (str(child), "7")
    assert reads == ["namespace"]
    monkeypatch.undo()
    assert Place.here() == here


def test_owner_of_an_earlier_boot_of_this_machine_is_gone(outside: Place) -> None:
    assert is_gone(named(attrs.evolve(outside, boot="another-boot")))


@pytest.mark.parametrize("differing", [{"machine": "another"}, {"machine": "unknown"}, {"namespace": "7"}], ids=str)
def test_owner_of_another_machine_with_the_same_name_is_not_gone(outside: Place, differing: dict[str, str]) -> None:
    """Containers of one image may have one host name, and even one machine id, on two machines."""
    assert not is_gone(named(attrs.evolve(outside, boot="another-boot", **differing)))
