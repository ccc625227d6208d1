"""What every backend must do, as checks that run without a test framework.

::

    @pytest.mark.parametrize(("name", "check"), BACKEND_CHECKS)
    async def test_my_backend_conforms(name, check):
        async with my_stage() as stage:
            await check(stage)

A check is handed a ``Stage``: the backend with a service behind it that does what the check says. It raises
``AssertionError`` with a sentence that says what is wrong. A check of something that the backend cannot do, such as
cancelling, passes at once. Checks need no particular clock and wait for nothing but the backend.

Begin with ``stage``; then come ``creates``, ``tasks``, and ``abilities``, which only some services have.
"""

from crynux_async.backends.conformance.abilities import ABILITY_CHECKS
from crynux_async.backends.conformance.creates import CREATE_CHECKS
from crynux_async.backends.conformance.stage import BackendCheck, Stage
from crynux_async.backends.conformance.tasks import TASK_CHECKS

__all__ = ["BACKEND_CHECKS", "BackendCheck", "Stage"]

BACKEND_CHECKS: tuple[tuple[str, BackendCheck], ...] = tuple(
    (check.__name__, check) for check in (*CREATE_CHECKS, *TASK_CHECKS, *ABILITY_CHECKS)
)
"""Every check with its name."""
