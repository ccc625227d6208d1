"""An address at which no bridge is: it is said at once, with what to do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from crynux_async.cli.exits import Exit, exit_code
from crynux_async.cli.run import run
from crynux_async.cli.service_choice import PaidService
from crynux_async.clock import utc_now
from crynux_async.errors import CrynuxError, SettingsError

CONFIG = 'model_name = "a/b"\ndataset_url = "https://example.com/a.zip"\nmax_train_steps = 50\ntimeout = 1800\n'
PAGE = "<!DOCTYPE html><html><body>Please log in to the network of this hotel</body></html>"


@asynccontextmanager
async def server(answer: Callable[[], web.Response]) -> AsyncIterator[str]:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return answer()

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def order(folder: Path) -> Awaitable[Exit]:
    path = folder / "job.toml"
    path.write_text(CONFIG)
    return run(
        path, [], folder, None, None, service=PaidService(), ledger=None, emulated=False, force=False, as_json=False
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: web.Response(status=404, text="<html>404</html>", content_type="text/html"), "base_url"),
        (lambda: web.Response(status=407), "proxy"),
        (
            lambda: web.Response(status=308, headers={"Location": "https://bridge.example/v1/images/models"}),
            "https://bridge.example",
        ),
        (
            lambda: web.Response(status=302, headers={"Location": "https://portal.example/login"}),
            "https://portal.example",
        ),
        (lambda: web.Response(text=PAGE, content_type="text/html"), "base_url"),
    ],
    ids=["404", "407", "308", "302", "page"],
)
async def test_what_no_waiting_can_mend_fails_at_once_and_says_what_to_do(
    answer: Callable[[], web.Response], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("CRYNUX_LEDGER", str(tmp_path / "jobs.db"))
    monkeypatch.setenv("CRYNUX_API_KEY", "k" * 44)
    async with server(answer) as url:
        monkeypatch.setenv("CRYNUX_BASE_URL", url)
        began = utc_now()
        with pytest.raises(CrynuxError) as caught:
            await order(tmp_path)
        assert (utc_now() - began).total_seconds() < 10
    assert exit_code(caught.value) in (Exit.BRIDGE, Exit.OUTCOME_UNKNOWN)
    assert said in str(caught.value), caught.value


@pytest.mark.parametrize("path", ["/v1", "/v1/images/models"])
async def test_route_in_the_address_is_refused_when_settings_are_read(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("CRYNUX_API_KEY", "k" * 44)
    monkeypatch.setenv("CRYNUX_BASE_URL", f"https://bridge.example{path}")
    with pytest.raises(SettingsError, match="must end before /v1"):
        await order(tmp_path)
