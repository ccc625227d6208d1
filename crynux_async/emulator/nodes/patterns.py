r"""Which names a regular expression matches, found out as a node does: with Python's own engine.

That engine tries every way to read a name, and for an expression such as ``(\w+\.?)+\.to_kk`` there are more ways than
anybody can wait for. It cannot be interrupted, and whoever started it can do nothing else. So it runs in a process of
its own that the system ends when its time is over.
"""

import functools
import json
import os
import subprocess
import sys

_SECONDS = 0.25
_LONGEST_START = 60.0

# The timer counts the seconds that the process really computes, so a busy machine changes nothing. What it does by
# default ends the process even inside the engine; a handler in Python would wait until the engine is done.
_PROGRAM = """
import json, re, signal, sys
pattern, names, seconds = json.load(sys.stdin)
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
try:
    compiled = re.compile(pattern)
except (re.error, RecursionError, OverflowError):
    names = []
json.dump([name for name in names if compiled.fullmatch(name)], sys.stdout)
"""


@functools.lru_cache(maxsize=1024)
def matching(pattern: str, names: tuple[str, ...]) -> frozenset[str] | None:
    """Return the names that a regular expression matches whole: none when it is no regular expression.

    Args:
        pattern: The expression.
        names: The names.

    Returns:
        None when that was not found out within a quarter of a second: a node would not find it out either.

    Raises:
        OSError: No process can be started, or the running program is not Python itself and would start anew.
    """
    if not os.path.basename(sys.executable or "").lower().startswith(("python", "pypy")):
        raise OSError("the emulator tries an expression in a process of Python's own, and this program is another")
    # Nothing of the environment, the user's folder or site-packages has a part in it, and it starts sooner so.
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _PROGRAM]
    question = json.dumps([pattern, names, _SECONDS]).encode()
    try:
        # The command is our own; the expression is data on its standard input.
        done = subprocess.run(  # noqa: S603
            command, input=question, capture_output=True, timeout=_LONGEST_START, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return frozenset(json.loads(done.stdout)) if done.returncode == 0 else None
