"""Which key a bridge of one's own is used with: in the settings file, and out of it again when it is deleted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs

from crynux_async.backends.bridge.admin import BridgeAdmin
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.bridge.key_book import BridgeKey
from crynux_async.cli.bridge_folder import BridgeFolder
from crynux_async.cli.settings_file import default_settings_file, drop_settings, put_settings, settings_in
from crynux_async.errors import AuthError, QuotaError
from crynux_async.secret import Secret
from crynux_async.settings import Settings

# As long before its end as doctor warns of it: what 'up' has just chosen is not complained of.
_LEAST_LEFT = timedelta(days=30)


@attrs.frozen(kw_only=True)
class ServingKey:
    """The key that sessions are to use.

    Attributes:
        api_key: The key itself.
        rate_limit: Creates a minute, or None where only the settings know.
    """

    api_key: Secret
    rate_limit: int | None

    @property
    def prefix(self) -> str:
        """Its first 8 characters, which are no secret."""
        return self.api_key.reveal()[:8]


def settings_place(bridge: BridgeFolder) -> Path:
    """Return where key and address belong: where sessions look, unless another bridge's are there.

    Raises:
        UsageError: The settings file cannot be read.
    """
    place = default_settings_file()
    known = settings_in(place)
    is_anothers = known.get("api_key") and known.get("base_url") != bridge.config.base_url
    return own_settings(bridge) if is_anothers else place


def own_settings(bridge: BridgeFolder) -> Path:
    """Return the settings file in a bridge's own folder."""
    return bridge.path / "settings.toml"


def own_key(place: Path, bridge: BridgeFolder) -> Secret | None:
    """Return the key of this bridge that a settings file has, or None.

    Raises:
        UsageError: The settings file cannot be read.
    """
    known = settings_in(place)
    key = known.get("api_key")
    is_ours = known.get("base_url") == bridge.config.base_url
    return Secret(key.strip()) if isinstance(key, str) and key.strip() and is_ours else None


async def serving_key(admin: BridgeAdmin, own: Secret | None, rate_limit: int) -> ServingKey:
    """Return the settings' own key if it still works for a while, else the newest one that does, or a new one.

    Args:
        admin: The bridge.
        own: The key in the settings.
        rate_limit: Creates a minute of a new key.
    """
    known = admin.list_keys()
    if own is not None and all(key.api_key != own for key in known) and await _is_accepted(admin, own):
        return ServingKey(api_key=own, rate_limit=None)  # made elsewhere: jobs belong to it all the same
    newest_first = known[::-1]
    # The settings' key first: jobs belong to keys, and with another one their models could not be fetched.
    for key in sorted(newest_first, key=lambda key: key.api_key != own):
        if _lasts(key) and await _is_known(admin, key):
            return _serving(key)
    return _serving(await admin.create_key(rate_limit=rate_limit))


def store(place: Path, bridge: BridgeFolder, key: ServingKey) -> None:
    """Put a key and what belongs to it into a settings file.

    Raises:
        UsageError: It cannot be read or written.
    """
    values: dict[str, str | int | float] = {
        "base_url": bridge.config.base_url,
        "api_key": key.api_key.reveal(),
        "keys": str(bridge.keys_file),
    }
    if bridge.config.admin_token:
        values["admin_token"] = bridge.config.admin_token.reveal()
    # Without it a session would have to learn the limit from a refusal, which costs a minute at the default.
    if key.rate_limit is not None:
        values["rate_limit"] = key.rate_limit
    put_settings(place, values)


def replace_in_settings(bridge: BridgeFolder, old: Secret, new: BridgeKey | None) -> list[Path]:
    """Put a key in the place of another one wherever settings name that, or take it out; returns the files.

    Raises:
        UsageError: A file cannot be read or written.
    """
    return list(_replaced(bridge, old, new))


def _replaced(bridge: BridgeFolder, old: Secret, new: BridgeKey | None) -> Iterator[Path]:
    # Both may have it: 'up' chose one of them by what stood in the user's own that day.
    for place in dict.fromkeys((default_settings_file(), own_settings(bridge))):
        if own_key(place, bridge) != old:
            continue
        if new is None:
            drop_settings(place, ("api_key", "rate_limit"))
        else:
            store(place, bridge, _serving(new))
        yield place


def _serving(key: BridgeKey) -> ServingKey:
    return ServingKey(api_key=key.api_key, rate_limit=key.rate_limit)


def _lasts(key: BridgeKey) -> bool:
    return key.is_ready and not key.is_retiring and key.expires_at - datetime.now(UTC) >= _LEAST_LEFT


async def _is_known(admin: BridgeAdmin, key: BridgeKey) -> bool:
    """Whether the bridge knows a key: nothing changes, and it says so if it does not."""
    try:
        await admin.set_rate_limit(key.api_key, key.rate_limit)
    except AuthError as error:
        # Else it is the wallet or its signature that is refused, and no other key would do.
        if error.field != "api_key":
            raise
        return False
    return True


async def _is_accepted(admin: BridgeAdmin, key: Secret) -> bool:
    """Whether the bridge accepts a key of which no more is known."""
    client = BridgeClient(Settings(base_url=admin.base_url, api_key=key))
    try:
        await client.key_is_fresh()
    except (AuthError, QuotaError):
        return False
    finally:
        await client.close()
    return True
