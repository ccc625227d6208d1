"""Every test runs on virtual time unless it is marked ``real_time``."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from crynux_async.testing import loop_factories


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_time: the test needs the system's clock")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    return loop_factories(real_time=item.get_closest_marker("real_time") is not None)
