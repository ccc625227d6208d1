"""What the parts that drive a job are handed to pass it on."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias

from crynux_async.backends.base import Phase
from crynux_async.supervision.record import Record
from crynux_async.training.config import FineTuneConfig

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
"""Starts a task that outlives its caller."""


class HandOn(Protocol):
    """Gives a job to whoever drives it next."""

    def __call__(
        self,
        record: Record,
        *,
        config: FineTuneConfig | None = None,
        look_after: float | None = None,
        progress: str = "",
        phases: Sequence[Phase] = (),
    ) -> None:
        """Hand a job on.

        Args:
            record: The job.
            config: What it trains, where that is at hand.
            look_after: Seconds after which the service wishes to be asked about a new task, or None.
            progress: How far a new task is in the service's own word, or "".
            phases: The phases of a new task's life, as far as the service tells them.
        """
