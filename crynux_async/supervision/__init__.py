"""Who drives jobs: from a planned job to an archive on disk, for every job of a session at once.

Internal: users hold a ``Session`` and ``Job`` handles; here is what stands behind them. In this order it reads best:

- ``record``, ``register``, ``rows``: what is kept of a job, the one place where that changes, and how it is stored;
- ``supervisor``: the one task group, and ``hand_on``, the life of a job (submit, follow, fetch);
- ``submitter`` with ``send_queue``, ``preparation``, ``create`` and ``patience``: from PLANNED to a task;
- ``follower`` with ``tasks`` and ``stepper``: from a task to its end, or to STALLED after
  ``Backend.stall_after`` (for a bridge ``stall_seconds`` in ``training/lengths``);
- ``accounts``: what tasks cost and why they ended;
- ``fetcher``: from its end to an archive on disk;
- ``abilities``: what only some services can do;
- ``ledger_writer``: every write about a job, under the session's fence;
- ``take_over``, ``lost_creates``, ``owners``: what other processes left.
"""
