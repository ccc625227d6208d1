"""Who runs the task: one folder per backend behind the protocol of ``crynux_async.backends.base``."""
