"""The Crynux bridge over HTTP: somebody's with an API key, or one's own with a wallet.

``backend`` is what a session holds. Below it, in this order: ``http`` (the calls) over ``wire`` (what is sent and what
answers mean); ``keys`` (a new key's first create), ``brackets`` (lost creates), ``traces`` and ``reasons`` (why a job
failed), ``facts``. Requests go through ``crynux_async.backends.http``.

One's own bridge: ``admin`` over ``admin_wire`` and ``key_book``; ``deploy_*`` is what ``crynux-async bridge`` writes,
checks and explains, pure but for the questions that ``deploy_checks`` asks.
"""
