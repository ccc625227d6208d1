"""Making a new API key known to the bridge before its first real job.

The bridge files a key's first task under two clients and then never hands out its result. A create that its schema
refuses comes far enough to prevent that, and costs one token of the rate limit and no money.

Source: crynux-bridge models/client.go, api/v1/image/finetune.go.
"""

import logging

from crynux_async.backends.base import Turnstile
from crynux_async.backends.bridge.facts import NEW_KEY_LIMIT
from crynux_async.backends.bridge.http import BridgeClient

_log = logging.getLogger("crynux_async.backends.bridge")


async def prepare_key(client: BridgeClient, turnstile: Turnstile) -> float | None:
    """Find out whether the key was ever used, and use it once if not.

    Args:
        client: The bridge.
        turnstile: Gives the token that the refused create costs.

    Returns:
        The rate limit of a key that nobody has used, in creates a minute, or None where the key was used before.

    Raises:
        AuthError, QuotaError: The key is not accepted.
        RateLimitedError, UnreachableError, TransportError, ServerError, ProtocolError: Not now; try again.
    """
    if not await client.key_is_fresh():
        return None
    _log.info("the key was never used: sending one create that will be refused, so that results can be downloaded")
    # It costs a token like any create, so it must pass the gate like any create.
    async with turnstile():
        await client.prime_key()
    return NEW_KEY_LIMIT
