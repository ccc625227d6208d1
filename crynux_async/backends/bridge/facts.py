"""What a bridge is known to do, in one place. The numbers that an operator can change are those of its example config.

Source: crynux-bridge config/config.example.yml, tasks/process_sd_ft_tasks.go, api/v1/tools/api_key.go.
"""

from crynux_async.training.service import BRIDGE_FACTS

NEW_KEY_LIMIT = 1.0
"""Creates a minute that a key may make until an administrator says otherwise."""

RETENTION = BRIDGE_FACTS.retention or 0.0
"""Seconds after its end for which a task and its result are kept (``inference_tasks_retention_days``)."""
