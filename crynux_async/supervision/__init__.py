"""Who drives jobs: from a planned job to an archive on disk, for every job of a session at once.

Internal: users hold a ``Session`` and ``Job`` handles. Read ``supervisor`` (the one task group and the sequence submit,
follow, fetch), then ``submitter``, ``follower``, ``fetcher``, then ``take_over`` (what an earlier process left).
"""
