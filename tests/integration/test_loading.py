"""What a session loads from its first submit to its first poll: a program's first request waits for it."""

import asyncio
import sys
from pathlib import Path

import pytest

from crynux_async.emulator import Emulator
from tests.command_line import environment

pytestmark = pytest.mark.real_time

_PROGRAM = """
import asyncio, sys
from crynux_async import FineTuneConfig, Session

async def main():
    config = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5", dataset_url="https://example.com/p.zip", max_train_steps=50
    )
    async with Session(ledger=sys.argv[1] or None) as session:
        await (await session.submit(config)).wait()

asyncio.run(main())
print(*sys.modules)
"""

_GENERATED = """
for name, module in list(sys.modules.items()):
    for kind in vars(module).values() if name.startswith("crynux_async.") else ():
        if isinstance(kind, type) and kind.__module__ == name:
            code = getattr(vars(kind).get("__eq__"), "__code__", None)
            if code and code.co_filename.startswith("<attrs generated"):
                print(kind.__qualname__, file=sys.stderr)
"""


async def _run(program: str, ledger: str = "") -> tuple[str, str]:
    """Return what a program prints that gets one job done, and what it says about itself."""
    async with Emulator(speed=1000) as bridge:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, ledger),
            env=environment(bridge),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complaints = await child.communicate()
    assert child.returncode == 0, complaints.decode()
    return said.decode(), complaints.decode()


async def test_first_job_loads_nothing_that_it_does_not_need() -> None:
    said, _ = await _run(_PROGRAM)

    loaded = set(said.split())
    assert "crynux_async.supervision.follower" in loaded
    assert not loaded & {
        "cattrs",
        "crynux_async.backends.ability_values",
        "crynux_async.backends.bridge.brackets",
        "crynux_async.backends.bridge.reasons",
        "crynux_async.backends.relay.arguments",
        "crynux_async.datasets.problems",
        "crynux_async.events",  # nobody reads any
        "crynux_async.job_values",
        "crynux_async.ledgers.seldom_rows",
        "crynux_async.session_values",
        "crynux_async.signing",
        "crynux_async.supervision.audit",
        "crynux_async.supervision.observer",
        "difflib",
        "sqlalchemy",
        "sqlite3",
        "tomllib",
    }


async def test_ledger_on_disk_loads_sqlite_and_no_other_library(tmp_path: Path) -> None:
    in_memory, _ = await _run(_PROGRAM)
    on_disk, _ = await _run(_PROGRAM, str(tmp_path / "jobs.db"))

    more = {name.partition(".")[0] for name in {*on_disk.split()} - {*in_memory.split()}}
    assert "sqlite3" in more
    assert more <= {"crynux_async", "sqlite3", "_sqlite3", "cattrs"}  # by cattrs the row of a gate is written


@pytest.mark.parametrize("ledger", ["", "jobs.db"])
async def test_first_job_waits_for_no_methods_of_values_to_be_compiled(ledger: str, tmp_path: Path) -> None:
    said, generated = await _run(_PROGRAM + _GENERATED, ledger and str(tmp_path / ledger))

    assert "crynux_async.supervision.follower" in said
    assert generated == ""
