"""Whether the service answers at all, and since when it does not."""

from crynux_async.clock import monotonic


class Reach:
    """What every request to the service shows of it, whichever job it is for.

    Attributes:
        trouble: What was wrong with the last request, or "" while the service answers.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._silent_since: float | None = None

    @property
    def silent_for(self) -> float | None:
        """Seconds since the first request that had no answer since the last one that had, or None."""
        return None if self._silent_since is None else monotonic() - self._silent_since

    def answered(self) -> None:
        """Enter that the service has answered, whatever it said."""
        self.trouble = ""
        self._silent_since = None

    def failed(self, error: Exception) -> None:
        """Enter that a request had no answer that counts."""
        self.trouble = str(error)
        if self._silent_since is None:
            self._silent_since = monotonic()
