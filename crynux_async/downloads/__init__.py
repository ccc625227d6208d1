"""How bytes come: a transfer that continues where it was cut, into a part file, to a final name that is never wrong.

Read ``transfer`` (the sequence), ``part_file`` (what is on disk meanwhile), ``names`` (which name), ``disk`` (locks,
room, making a file durable).
"""
