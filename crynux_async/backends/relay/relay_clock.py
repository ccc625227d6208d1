"""What the relay's clock shows: signatures count for a minute by it, whatever this machine's clock says."""

from crynux_async.clock import monotonic


class RelayClock:
    """The relay's time, carried on by this machine's steady clock.

    The date of this machine is never used, because nobody knows how wrong it is. The steady clock stands still while a
    machine sleeps: then the relay refuses a signature once, and its time is asked for again.
    """

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether the relay's time is known."""
        return self._offset is not None

    def set(self, relay_time: int, asked_at: float) -> None:
        """Note the relay's time.

        Args:
            relay_time: What it answered, in whole seconds since 1970.
            asked_at: When it was asked, by ``monotonic()``: the answer is at least as old as the way back.
        """
        # The relay cuts the fraction of its second off: half of one is what is lost on average.
        self._offset = relay_time + 0.5 - (asked_at + monotonic()) / 2

    def forget(self) -> None:
        """Ask again: a signature with this time was refused."""
        self._offset = None

    def now(self) -> float:
        """Return the relay's time in seconds since 1970; it must be set."""
        assert self._offset is not None
        return self._offset + monotonic()
