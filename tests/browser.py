"""Debian's Chromium, driven from Python; tests that need it are skipped by name where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-site-isolation-trials",
    "--renderer-process-limit=1",
    "--disable-extensions",
]


@contextmanager
def opened_browser() -> Iterator[Any]:
    """Give a browser of playwright for the block."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(
    browser: Any, address: str, *, server: str = "", passes_over: str = "", **options: Any
) -> Iterator[Any]:
    """Give a page; the test fails where the page logs an error, breaks its policy or asks anybody else for anything.

    Args:
        browser: Opens it.
        address: Of the page.
        server: What the addresses begin with that it may ask, or "" for a page that may ask nobody.
        passes_over: Which errors are expected, by a text in them.
        **options: Of the browser's context.
    """
    context = browser.new_context(offline=not server, **options)
    page = context.new_page()
    problems: list[str] = []

    def log(message: Any) -> None:
        is_expected = bool(passes_over) and passes_over in message.text
        if message.type in ("error", "warning") and not is_expected:
            problems.append(message.text)

    def asked(request: Any) -> None:
        if not _is_local(request.url) and not (server and request.url.startswith(f"{server}/")):
            problems.append(request.url)

    page.on("console", log)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", asked)
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
    assert problems == []


def _is_local(address: str) -> bool:
    return address.startswith(("file:", "data:", "blob:", "about:"))
