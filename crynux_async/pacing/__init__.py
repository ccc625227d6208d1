"""When: which moment is right for a create (rate limit) and for a look at a task (polling).

Pure but for ``gate``. Read ``token_bucket`` with ``evidence`` (what refusals tell of a limit) and ``gate`` (who may
send now), then ``poll_queue`` with ``hazard`` (what is known of how long a kind of job takes).
"""
