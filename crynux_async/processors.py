"""How many processors this process may use, and how they are shared out where something takes more than one."""

import os


def processors() -> int:
    """Return how many processors this process may use, >= 1."""
    # What a container or ``taskset`` allows, where the system tells; Python has a name for it from 3.13 on.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def verifying_at_once() -> int:
    """Return how many files are verified at once: half of the processors, and at least one, leaves some to the rest."""
    return max(1, processors() // 2)
