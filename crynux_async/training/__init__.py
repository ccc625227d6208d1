"""What will be trained: a config, what the services make of it, how long it trains, and what to know before paying.

Pure: nothing here waits, and nothing knows a session. Read ``config`` (what is asked), ``effective`` (what is sent and
used), ``lengths`` (steps and rounds), ``schedules`` and ``simulation`` (how it goes), ``advice`` (what to know of it).
"""
