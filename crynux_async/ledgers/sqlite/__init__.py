"""A ledger in a SQLite file, which several processes on one machine may share.

Read ``ledger`` first. ``opening`` makes or migrates a file after ``file`` has looked whether it is one of ours and
whole, ``backup`` keeps it as it was before, ``wal`` tells what a crash has left in its log. ``connection`` is the
thread in which SQLite lives, ``trouble`` what its errors mean, ``ticker`` how others' writes are heard of.
``reader`` reads a file that is ready without an event loop.
"""
