"""What the network's nodes do with a task. No service is known.

Read ``task_args`` (what is asked), ``node`` (what becomes of it: rounds, steps, an end or none), then ``archives``
(what is delivered), with ``unet``, ``weights`` and ``zip_files`` below it.
"""
