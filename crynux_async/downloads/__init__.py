"""How bytes come: a transfer that continues where it was cut, into a part file, to a final name that is never wrong.

``book`` is what a session asks: it shares transfers, and knows what is ``finished``. Read ``transfer`` (the sequence),
``requests`` (what is asked for, which answers are taken), ``part_file`` (what is on disk meanwhile, with ``notes``
beside it), ``checking`` (what can be checked meanwhile) and ``final_name`` (where a file gets its name, what is
checked before). ``names`` and ``reservations`` say which name, ``room`` whether it fits. ``pace`` holds the options;
``gathering`` and ``disk`` carry the bytes, in threads as ``crynux_async/threads`` has them.
"""
