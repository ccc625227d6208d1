"""NO_PROXY is read as other tools read it, and a proxy's password appears nowhere."""

import pytest

from crynux_async.backends.http.proxies import environment_proxy, is_exempt
from crynux_async.errors import SettingsError


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("no_proxy", "host", "expected"),
    [
        ("bridge.example", "bridge.example", True),
        ("bridge.example", "my.bridge.example", True),
        (".example", "bridge.example", True),
        ("*.example", "bridge.example", True),
        ("*.example", "example", True),
        ("bridge.example", "mybridge.example", False),
        ("other.example, bridge.example", "BRIDGE.example", True),
        ("other.example bridge.example", "bridge.example", True),
        ("*", "bridge.example", True),
        ("", "bridge.example", False),
        ("bridge.example:5028", "bridge.example", True),
        ("bridge.example:80", "bridge.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:5028", "10.1.2.3", True),
        ("10.1.2.3:80", "10.1.2.3", False),
        ("10.0.0.0/8", "ten.example", False),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("[fd00::1]:5028", "fd00::1", True),
        ("[fd00::1]:80", "fd00::1", False),
        ("bridge.example.", "bridge.example", True),
        ("bridge.example", "my.bridge.example.", True),
        ("fd00::1", "fd00::2", False),
        ("10.0.0.0/99", "10.0.0.1", False),
    ],
)
def test_no_proxy_covers_names_networks_and_ports(no_proxy: str, host: str, expected: bool) -> None:
    assert is_exempt(host, 5028, no_proxy) is expected


def test_proxy_of_the_scheme_is_taken_before_the_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://all.example:3128")
    assert environment_proxy("https://bridge.example") == "http://all.example:3128"
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert environment_proxy("https://bridge.example") == "http://proxy.example:3128"


def test_exempt_bridge_has_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,*.internal")
    assert environment_proxy("http://10.9.8.7:5028") is None
    assert environment_proxy("http://bridge.internal:5028") is None
    assert environment_proxy("http://bridge.example") == "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTPS_PROXY", "socks5://user:hunter2@proxy.example:1080", "socks5"),
        ("ALL_PROXY", "socks5h://user:hunter2@proxy.example:1080", "socks5h"),
        ("HTTPS_PROXY", "http://user:hunter2@proxy.example:99999", "proxy.example"),
        ("HTTPS_PROXY", "http://user:hunter2@proxy.example:port", "proxy.example"),
    ],
)
def test_proxy_that_cannot_be_used_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        environment_proxy("https://bridge.example")
    assert variable in str(caught.value)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
