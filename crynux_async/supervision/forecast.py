"""``Forecast``: when jobs that are not queued yet would be sent and end."""

from datetime import datetime

import attrs

from crynux_async.values import Value


@attrs.frozen(kw_only=True)
class Forecast(Value):
    """When new jobs would be sent and end, as far as that can be said before they are queued.

    Attributes:
        last_sent_at: When the last of them would be sent, aware UTC; None while the rate limit is not known.
        ends_between: Between when and when the last of them would end: so long take all but a tenth of the fastest and
            of the slowest jobs of its kind. None while too few of a kind have been seen.
    """

    last_sent_at: datetime | None
    ends_between: tuple[datetime, datetime] | None
