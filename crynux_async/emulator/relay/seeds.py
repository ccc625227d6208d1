"""The seeds of tasks, which decide with their creator's key whether a group validates them: one in a hundred.

Source: crynux-relay api/v1/inference_tasks/create_task.go (samplingSeed), utils/vrf.go.
"""

import random
from collections import deque
from typing import Literal

from crynux_async.emulator.relay.vrf import is_selected, output_of_secret
from crynux_async.emulator.signatures import address_of

Sampling = Literal["random", "always", "never"]

_SEED_BYTES = 32


class Seeds:
    """Draws seeds, as chance or somebody wants them.

    Whether a seed selects its task follows from the creator's secret key, so only seeds for wallets that are known here
    can be chosen; others are left to chance.

    Args:
        draw: Where chance comes from.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._secrets: dict[str, bytes] = {}
        self._next: deque[bytes] = deque()
        self.sampling: Sampling = "random"

    def know(self, secret_key: bytes) -> str:
        """Remember a wallet by its secret key, and return its address.

        Raises:
            ValueError: If it is no secret key.
        """
        address = address_of(secret_key)
        self._secrets[address] = secret_key
        return address

    def put_next(self, seed: bytes) -> None:
        """Let a seed be the next that is drawn for anybody, behind others that wait."""
        if len(seed) != _SEED_BYTES:
            raise ValueError("a seed has 32 bytes")
        self._next.append(seed)

    def draw(self, creator: str) -> str:
        """Return a seed for a creator's task, hexadecimal with 0x."""
        if self._next:
            return f"0x{self._next.popleft().hex()}"
        # Chance selects one in a hundred: for "always" about a hundred seeds are tried.
        secret = self._secrets.get(creator)
        wanted = {"always": True, "never": False}.get(self.sampling)
        while True:
            seed = self._draw.randbytes(_SEED_BYTES)
            if wanted is None or secret is None or is_selected(output_of_secret(secret, seed)) is wanted:
                return f"0x{seed.hex()}"
