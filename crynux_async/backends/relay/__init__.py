"""The relay: tasks that a wallet signs and pays for, without any bridge.

Pure so far. Read ``ids`` (what tasks are called, and how they are found again), ``arguments`` (a config as a node takes
it), ``wire`` (what is sent), ``tasks`` and ``answers`` (what comes back) and ``steps`` (what a try needs next).
"""
