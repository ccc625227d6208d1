"""The pytest plugin of crynux_async: fixtures and marks for tests of programs that train.

pytest loads this module in every project in whose environment crynux_async is installed. So it stands beside the
package, imports nothing but pytest, and does nothing in a test that has neither a fixture nor a mark of its own.

Async fixtures belong to the plugin that runs the test: pytest-asyncio wants its own decorator, and anyio's plugin takes
plain ones. So there are two of each, and the one that tests name chooses.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from crynux_async import Session
    from crynux_async.emulator import Emulator

_VIRTUAL_TIME = "crynux_virtual_time"
_MARKS = (
    f"{_VIRTUAL_TIME}: the clock of the test's event loop jumps, so that hours of waiting take no time.",
    "crynux_bridge(**options): arguments for the emulator that the fixture crynux_bridge starts, as rate_limit=5.",
    "crynux_session(**arguments): arguments for the session that the fixture crynux_session opens, as max_creates=1.",
)


@pytest.fixture
def crynux_bridge(request: pytest.FixtureRequest) -> "Emulator":
    """An emulated bridge that runs during the test; ``Session()`` without arguments talks to it meanwhile."""
    bridge: Emulator = request.getfixturevalue(_variant(request, "crynux_bridge"))
    return bridge


@pytest.fixture
def crynux_session(request: pytest.FixtureRequest) -> "Session":
    """An open session on ``crynux_bridge``, which forgets its jobs at the end of the test."""
    session: Session = request.getfixturevalue(_variant(request, "crynux_session"))
    return session


def _variant(request: pytest.FixtureRequest, fixture: str) -> str:
    """Return the name of the fixture for the plugin that runs this test."""
    with_asyncio = request.node.get_closest_marker("asyncio") is not None
    with_anyio = "anyio_backend" in request.fixturenames
    if with_asyncio and with_anyio:
        # pytest-asyncio's auto mode marks every async test, and runs it on another loop than anyio sets fixtures up on.
        pytest.fail(
            f"{fixture} does not know who runs this test: pytest-asyncio does in its auto mode, but its fixtures are "
            "set up by anyio. Leave out pytest.mark.anyio, or set asyncio_mode = strict",
            pytrace=False,
        )
    if not with_asyncio and not with_anyio:
        pytest.fail(
            f"{fixture} is for async tests, because what it starts runs on the test's event loop: "
            "mark the test with pytest.mark.asyncio or pytest.mark.anyio",
            pytrace=False,
        )
    return f"_{fixture}_anyio" if with_anyio else f"_{fixture}_asyncio"


def _add_fixtures(module: ModuleType, suffix: str, decorator: Callable[..., Any]) -> None:
    # New functions each time: pytest-asyncio writes on those that it decorates.
    async def bridge(
        request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> "AsyncGenerator[Emulator, None]":
        from crynux_async.testing.fixtures import bridge_of_test

        async with bridge_of_test(request.node, monkeypatch) as running:
            yield running

    async def session(request: pytest.FixtureRequest, crynux_bridge: "Emulator") -> "AsyncGenerator[Session, None]":
        from crynux_async.testing.fixtures import session_of_test

        async with session_of_test(request.node, crynux_bridge) as opened:
            yield opened

    for fixture in (bridge, session):
        name = f"_crynux_{fixture.__name__}_{suffix}"
        setattr(module, name, decorator(name=name)(fixture))


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks, and make the fixtures for each plugin that is here to run async tests."""
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)
    module = ModuleType(f"{__name__}.variants")
    _add_fixtures(module, "anyio", pytest.fixture)
    if config.pluginmanager.has_plugin("asyncio"):
        import pytest_asyncio

        _add_fixtures(module, "asyncio", pytest_asyncio.fixture)
    config.pluginmanager.register(module, module.__name__)


class _LoopFactories:
    """A hook of pytest-asyncio: whoever has it decides for every test, so it is there for those with the mark alone."""

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_asyncio_loop_factories(self) -> "Mapping[str, Callable[[], AbstractEventLoop]]":
        from crynux_async.testing import loop_factories

        return loop_factories()


@contextmanager
def _virtual_time(item: pytest.Item) -> Generator[None, None, None]:
    """Let pytest-asyncio run the item on virtual time if it has the mark."""
    if item.get_closest_marker(_VIRTUAL_TIME) is None:
        yield
        return
    hook = _LoopFactories()
    item.config.pluginmanager.register(hook)
    try:
        yield
    finally:
        item.config.pluginmanager.unregister(hook)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, Any, Any]:
    """Give tests with the mark a loop whose time is virtual."""
    test = metafunc.definition
    if test.get_closest_marker(_VIRTUAL_TIME) is not None and "anyio_backend" in metafunc.fixturenames:
        from crynux_async.testing import VirtualTimeLoop

        backend = ("asyncio", {"loop_factory": VirtualTimeLoop})
        test.add_marker(pytest.mark.parametrize("anyio_backend", [backend], ids=["virtual_time"]))
    with _virtual_time(test):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let pytest-asyncio see at the test, too, where its loop comes from."""
    with _virtual_time(item):
        return (yield)
