"""The pytest plugin, in projects of its users: each is a folder of its own, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crynux_async.testing.fixtures import bridge_of_test

STRANGERS = """
import asyncio, sys
import pytest

def test_start_of_pytest_imports_nothing():
    assert {"crynux_async", "aiohttp", "sqlalchemy"} & sys.modules.keys() == set()

@pytest.mark.asyncio
async def test_loop_is_the_usual_one():
    assert type(asyncio.get_running_loop()).__module__ == "asyncio.unix_events"

async def test_mode_of_pytest_asyncio_is_strict():
    pass
"""

USERS = """
import asyncio, os
from datetime import datetime, timedelta

import pytest
from crynux_async import FineTuneConfig, Session
from crynux_async.clock import utc_now
from crynux_async.testing import VirtualTimeLoop

CONFIG = FineTuneConfig(model_name="crynux-ai/stable-diffusion-v1-5", dataset_url="https://a.example/cats.zip")

def is_virtual():
    return isinstance(asyncio.get_running_loop(), VirtualTimeLoop)

class OwnLoop(asyncio.SelectorEventLoop):
    pass

@pytest.fixture
def session(crynux_session):
    return crynux_session

@pytest.mark.asyncio
async def test_own_loop_is_used_without_the_mark(crynux_session):
    assert type(asyncio.get_running_loop()) is OwnLoop

@pytest.mark.asyncio
@pytest.mark.crynux_virtual_time
async def test_mark_alone_lets_time_jump():
    before = utc_now()
    await asyncio.sleep(86_400)
    assert is_virtual() and utc_now() - before >= timedelta(days=1)

@pytest.mark.anyio
@pytest.mark.crynux_virtual_time
async def test_anyio_runs_a_job_on_virtual_time(session, tmp_path):
    assert is_virtual() and (await session.run(CONFIG, tmp_path)).exists()

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio_runs_a_job_in_real_time(crynux_session, tmp_path):
    assert not is_virtual() and (await crynux_session.run(CONFIG, tmp_path)).exists()

@pytest.mark.crynux_bridge(rate_limit=3, speed=1)
@pytest.mark.crynux_session(max_creates=1)
class TestMarks:
    @pytest.mark.asyncio
    @pytest.mark.crynux_bridge(rate_limit=5)
    async def test_closest_mark_wins(self, crynux_session):
        found = crynux_session.settings
        assert (found.rate_limit, found.min_poll_interval, found.max_creates) == (5, 5, 1)

@pytest.mark.asyncio
async def test_program_has_the_session_that_the_fixture_has(crynux_bridge, crynux_session):
    async with Session() as own:
        assert (own.settings.base_url, own.settings.key_id) == (crynux_bridge.url, crynux_session.settings.key_id)
        assert own.settings.max_creates == 8

def test_environment_is_the_users_again():
    assert {name: value for name, value in os.environ.items() if name.startswith("CRYNUX_")} == {
        "CRYNUX_API_KEY": "A" * 44,
        "CRYNUX_MAX_CREATES": "2",
    }

def test_without_a_loop(crynux_bridge):
    pass
"""

OWN_LOOP = """
def pytest_asyncio_loop_factories(config, item):
    from test_project import OwnLoop
    return {"own": OwnLoop}
"""

# Without an option of its own pytest-asyncio warns of what it will do one day.
WARNINGS = ["-W", "error", "-W", "ignore:The configuration option"]


def outcomes(folder: Path, *options: str) -> dict[str, str]:
    """Run a project's tests with pytest-asyncio and anyio as they come; return what became of each."""
    output = printed(folder, *options)
    return dict(re.findall(r"^test_project.py::(\S+) ([A-Z]+)", output, re.MULTILINE)) or {"": output}


def printed(folder: Path, *options: str) -> str:
    """Return what pytest prints about a project."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CRYNUX_", "PYTEST_"))}
    environment |= {"CRYNUX_API_KEY": "A" * 44, "CRYNUX_MAX_CREATES": "2"}
    command = [sys.executable, "-m", "pytest", "-v", "-rA", "--strict-markers", "-p", "no:xdist", *WARNINGS, *options]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def test_project_that_does_not_use_the_plugin_is_as_without_it(project: Path) -> None:
    (project / "test_project.py").write_text(STRANGERS)
    # Other plugins of this environment do import what this one must not.
    others = [option for name in ("schemathesis", "hypothesispytest") for option in ("-p", f"no:{name}")]
    assert outcomes(project, *others) == {
        "test_start_of_pytest_imports_nothing": "PASSED",
        "test_loop_is_the_usual_one": "PASSED",
        "test_mode_of_pytest_asyncio_is_strict": "FAILED",
    }


def test_project_that_uses_the_plugin_has_what_its_marks_say(project: Path) -> None:
    (project / "test_project.py").write_text(USERS)
    (project / "conftest.py").write_text(OWN_LOOP)
    found = outcomes(project)
    assert found.pop("test_without_a_loop") == "ERROR"
    assert len(found) == 7
    assert set(found.values()) == {"PASSED"}, found


def test_test_that_two_plugins_lay_claim_to_says_what_to_do(project: Path) -> None:
    (project / "test_project.py").write_text(
        "import pytest\n\n@pytest.mark.anyio\nasync def test_of_anyio(crynux_session):\n    pass\n\n"
        "async def test_of_pytest_asyncio(crynux_session):\n    pass\n"
    )
    assert outcomes(project, "-o", "asyncio_mode=auto") == {
        "test_of_anyio[asyncio]": "ERROR",
        "test_of_pytest_asyncio": "PASSED",
    }
    assert "Leave out pytest.mark.anyio, or set asyncio_mode = strict" in printed(project, "-o", "asyncio_mode=auto")


def test_fixture_on_another_librarys_loop_says_what_to_do(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(pytest.fail.Exception, match="anyio_backend return 'asyncio'"):
        bridge_of_test(request.node, monkeypatch).__aenter__().__await__().__next__()
