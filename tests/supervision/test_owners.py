"""The names of lease owners."""

import subprocess
import sys

import pytest

from crynux_async.supervision.owners import is_gone, new_owner


def test_owner_of_this_process_is_not_gone() -> None:
    assert not is_gone(new_owner())


def test_owner_of_a_process_that_ended_is_gone() -> None:
    program = "from crynux_async.supervision.owners import new_owner; print(new_owner())"
    owner = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert is_gone(owner)


def test_owner_whose_process_number_was_used_again_is_gone() -> None:
    host, boot, pid, _, own = new_owner().split("/")
    assert is_gone("/".join((host, boot, pid, "1", own)))


@pytest.mark.parametrize("owner", ["", "somebody", "elsewhere/boot/1/2/3", "a/b/c/d/e"])
def test_owner_that_cannot_be_judged_is_not_gone(owner: str) -> None:
    assert not is_gone(owner)


def test_owner_of_an_earlier_boot_of_this_host_is_gone() -> None:
    host, _, pid, started, own = new_owner().split("/")
    assert is_gone("/".join((host, "another-boot", pid, started, own)))
