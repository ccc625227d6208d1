"""When: which moment is right for a create (rate limit) and for a look at a task (polling).

Pure but for ``gate``. Read ``token_bucket`` (how long to wait, after a refusal too) with ``evidence`` (what refusals
tell of a limit) and ``gate`` (who may send now), then ``poll_queue`` (when to look, and that a job is STALLED; after
how long its backend says, for a bridge ``stall_seconds`` in ``training/lengths``) with ``poll_budget`` (how many polls
there may be) and ``hazard`` (what is known of when jobs of one kind end, counted in ``age_bins``, until ``drift`` shows
that they have changed), and with ``phases`` where a service tells how far its tasks are and since when.
"""
