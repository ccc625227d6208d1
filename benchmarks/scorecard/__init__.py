"""The fault scorecard: every way in which something can go wrong, done for real, and what must be true afterwards.

``python -m benchmarks.scorecard [CASE ...] [--seeds N]`` prints a table of the cases (passed, failed, skipped with the
reason) and ends with one line of JSON. A case that cannot be run on a machine is skipped, never passed.
"""
