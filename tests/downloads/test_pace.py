"""How patient a download may be."""

from typing import Any

import pytest

from crynux_async.downloads.pace import DownloadOptions


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_bytes": 0},
        {"stall_timeout": 0.0},
        {"stall_timeout": float("inf")},
        {"stall_timeout": float("nan")},
        {"min_bytes_per_second": -1.0},
        {"speed_window": 0.0},
        {"attempts": 0},
        {"retry_delay": -1.0},
        {"free_space_margin": -1},
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        DownloadOptions(**options)


def test_delays_double_up_to_the_longest() -> None:
    options = DownloadOptions(retry_delay=0.5, max_retry_delay=3.0)
    assert [options.delay(failures) for failures in (0, 1, 2, 3, 4, 5, 10**6)] == [0.5, 0.5, 1.0, 2.0, 3.0, 3.0, 3.0]
