"""Which HTTP proxy, if any, stands between this machine and a service.

``NO_PROXY`` is read as curl and Python's requests read it: names with or without a leading "." or "*." mean a domain
with everything below it, networks such as 10.0.0.0/8 mean addresses, "*" means everything, and ":port" is honoured.
Python's own ``urllib`` knows neither networks nor "*.".

Source: curl's man page (NO_PROXY); requests.utils.should_bypass_proxies.
"""

import ipaddress
import urllib.request
from urllib.parse import urlsplit

from crynux_async.errors import Problem, SettingsError
from crynux_async.settings import proxy_problem


def environment_proxy(base_url: str) -> str | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY ask for, or None.

    Args:
        base_url: The address of the service.

    Raises:
        SettingsError: They ask for a proxy that cannot be used; its password is not shown.
    """
    parts = urlsplit(base_url)
    found = urllib.request.getproxies()
    if is_exempt(parts.hostname or "", _port(base_url), found.get("no", "")):
        return None
    names = [name for name in (parts.scheme, "all") if found.get(name)]
    if not names:
        return None
    proxy = found[names[0]]
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    problem = proxy_problem(proxy)
    if problem is not None:
        message = f"{names[0].upper()}_PROXY {problem}; correct it, give proxy=..., or trust_env=0"
        raise SettingsError([Problem(field="proxy", message=message)])
    return proxy


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` says that a host is reached without a proxy.

    Args:
        host: Its name or address, an IPv6 address without brackets.
        port: Its port.
        no_proxy: The variable's text: entries between commas or spaces.
    """
    # A name that ends with the root's dot is the same name.
    name = host.lower().rstrip(".")
    return any(_covers(entry.lower(), name, port) for entry in no_proxy.replace(",", " ").split())


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if address is not None:
        network = _network(_without_port(entry, port).strip("[]"))
        return network is not None and address in network
    name = _without_port(entry, port).removeprefix("*").strip(".")
    # With the dot: "example.com" does not cover "notexample.com".
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _without_port(entry: str, port: int) -> str:
    """Return an entry without the port that it names; nothing where it names another one."""
    name, colon, named = entry.rpartition(":")
    if not colon or not named.isdecimal() or (":" in name and not name.endswith("]")):
        return entry  # without a port: what follows the last colon of a bare IPv6 address belongs to it
    return name if int(named) == port else ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        # The zone of a link-local address names an interface of this machine and no part of a network.
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _port(base_url: str) -> int:
    parts = urlsplit(base_url)
    return parts.port or (443 if parts.scheme == "https" else 80)
