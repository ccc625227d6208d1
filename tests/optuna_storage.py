"""What Optuna leaves behind of a study on disk."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_afterwards() -> Iterator[None]:
    """Collect the connections of a study's storage here, and not in a later test that could do nothing about them.

    Optuna closes none of them and gives no way to; from Python 3.13 on SQLite's say so when they are collected.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
