"""What the control plane of the emulated bridge can do."""

from collections.abc import Mapping
from typing import Any

import attrs
from aiohttp import web

from crynux_async.emulator.bridge.keys import KeyOptions
from crynux_async.emulator.bridge.service import Bridge
from crynux_async.emulator.http import checks
from crynux_async.emulator.http.control import Call, RefusalError
from crynux_async.emulator.http.steering import Steering


@attrs.frozen(kw_only=True)
class FreshKeyOptions(KeyOptions):
    """A key as the real bridge's admin call makes it, but for the role without which it opens nothing."""

    rate_limit: int = attrs.field(default=1, validator=checks.integer())
    use_limit: int = attrs.field(default=20, validator=checks.integer())
    primed: bool = attrs.field(default=False, validator=checks.flag())


@attrs.frozen(kw_only=True)
class NewLimit:
    """Another rate limit for a key.

    Attributes:
        api_key: The key.
        rate_limit: Creates per minute.
    """

    api_key: str = attrs.field(validator=checks.text(), repr=False)
    rate_limit: int = attrs.field(validator=checks.integer())


@attrs.define(eq=False)
class BridgeControl:
    """The calls, on the parts that they are about.

    Attributes:
        bridge: The bridge.
        steering: What every emulated service can do.
    """

    bridge: Bridge
    steering: Steering

    def calls(self) -> Mapping[tuple[str, str], Call]:
        """Return every call by method and path."""
        return {
            ("POST", "keys"): Call(FreshKeyOptions, self._new_key),
            ("POST", "keys/limit"): Call(NewLimit, self._set_limit),
            **self.steering.calls(),
        }

    async def _new_key(self, options: KeyOptions, _: web.BaseRequest) -> Any:
        return {"api_key": self.bridge.database.new_key(options)}

    async def _set_limit(self, new: NewLimit, _: web.BaseRequest) -> Any:
        if not self.bridge.set_rate_limit(new.api_key, new.rate_limit):
            raise RefusalError(400, "api_key: there is no such key")
        return {}
