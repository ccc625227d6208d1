"""The emulated bridge.

Read ``server`` (``Emulator``, which programs use, and how the parts are put together), ``service`` (what the bridge
answers), ``database`` (what it remembers), ``admin`` (keys and traces), then ``serving`` (a request, and the fault that
spoils it) and ``control``.
``binding``, ``schema``, ``keys``, ``go_limiter`` and ``jobs`` are the rules, each without a socket or a clock. Only
``Emulator`` and what ``crynux_async.emulator`` names may be touched from outside.
"""
