"""Where the bridge cannot be reached: names, refused connections, TLS, proxies; and what the environment changes."""

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import pytest

from crynux_async.clock import monotonic
from crynux_async.errors import (
    SubmissionUnknownError,
    UnreachableError,
)
from tests.loopback import Peer, Script, always, answer, forward, in_turn, once, reset, serving
from tests.transport_probe import (
    ACCEPTED,
    CALLS,
    CONFIG,
    KEY,
    POSTS,
    PROXY_LOGIN,
    Call,
    body_of,
    bridge,
    bridge_at,
    check_text,
    every_call,
    failure_of,
)


@pytest.fixture(autouse=True)
def no_key_in_any_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    check_text(caplog.text)


# Not reached at all


@every_call
async def test_refused_connection_is_unreachable(call: Call) -> None:
    async with serving(always(ACCEPTED)) as server:
        host = server.host
    async with bridge(f"http://{host}") as backend:
        error = await failure_of(call(backend))
    assert type(error) is UnreachableError
    assert str(error).startswith(f"{host} cannot be reached: Connection refused; nothing was sent")


@every_call
async def test_name_that_does_not_resolve_is_unreachable(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    async with bridge("http://bridge.invalid") as backend:
        error = await failure_of(call(backend))
    assert type(error) is UnreachableError


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.test"])
@every_call
async def test_name_that_cannot_exist_is_unreachable(call: Call, host: str) -> None:
    async with bridge(f"http://{host}") as backend:
        assert type(await failure_of(call(backend))) is UnreachableError


@every_call
async def test_name_that_never_resolves_is_unreachable_after_the_request_timeout(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    async with bridge("http://bridge.test", request_timeout=30.0) as backend:
        began = monotonic()
        assert type(await failure_of(call(backend))) is UnreachableError
        assert monotonic() - began == pytest.approx(30, abs=2)


@pytest.mark.real_time
async def test_connection_that_is_not_made_in_time_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first, socket.socket() as second:
        # Nobody accepts: once the queue is full the system drops further requests to connect.
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        host = "{}:{}".format(*full.getsockname())
        async with bridge(f"http://{host}", connect_timeout=0.05) as backend:
            error = await failure_of(backend.create(body_of(CONFIG)))
    assert type(error) is UnreachableError


async def test_status_that_gets_no_connection_from_the_pool_is_unreachable_after_the_request_timeout() -> None:
    begun = once(answer(200, b"P", "application/zip", Content_Length="2"), end=Peer.silence)
    async with bridge_at(begun, max_connections=1, request_timeout=30.0) as (server, backend):
        async with backend.open_result("17"):
            began = monotonic()
            assert type(await failure_of(backend.status("17"))) is UnreachableError
            assert monotonic() - began == pytest.approx(30, abs=2)
        assert server.accepted == 1


# TLS


@attrs.frozen(kw_only=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1."""

    file: str
    context: ssl.SSLContext


def make_certificate(folder: Path, name: str) -> Certificate:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, cert = folder / "key.pem", folder / "cert.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    asked = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([tool, "req", *kind, *asked], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return Certificate(file=str(cert), context=context)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture(scope="session")
def foreign_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:elsewhere.test")


@every_call
async def test_tls_to_a_server_without_tls_is_unreachable_and_shows_it_nothing(call: Call) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(400, "Client sent an HTTP request to an HTTPS server"))

    async with serving(script) as server, bridge(f"https://{server.host}", connect_timeout=5.0) as backend:
        assert type(await failure_of(call(backend))) is UnreachableError
        await server.all_closed()
        assert server.requests == []
        assert KEY.encode() not in server.loose_bytes


@every_call
async def test_tls_with_a_certificate_that_nobody_vouches_for_is_unreachable(
    call: Call, certificate: Certificate
) -> None:
    async with serving(always(ACCEPTED), tls=certificate.context) as server:
        async with bridge(f"https://{server.host}") as backend:
            error = await failure_of(call(backend))
        assert type(error) is UnreachableError
        assert "certificate" in str(error).lower()
        assert server.requests == []


async def test_tls_with_a_certificate_for_another_host_is_unreachable(foreign_certificate: Certificate) -> None:
    async with serving(always(ACCEPTED), tls=foreign_certificate.context) as server:
        async with bridge(f"https://{server.host}", ca_bundle=foreign_certificate.file) as backend:
            assert type(await failure_of(backend.create(body_of(CONFIG)))) is UnreachableError
        assert server.requests == []


async def test_tls_handshake_that_stalls_is_unreachable_after_the_connect_timeout() -> None:
    async with serving(Peer.silence) as server, bridge(f"https://{server.host}", connect_timeout=15.0) as backend:
        began = monotonic()
        assert type(await failure_of(backend.create(body_of(CONFIG)))) is UnreachableError
        assert monotonic() - began == pytest.approx(15, abs=2)


async def test_tls_with_the_ca_bundle_of_the_server_works(certificate: Certificate) -> None:
    async with serving(always(ACCEPTED), tls=certificate.context) as server:
        async with bridge(f"https://{server.host}", ca_bundle=certificate.file) as backend:
            assert (await backend.create(body_of(CONFIG))).task_id == "17"
            assert (await backend.create(body_of(CONFIG))).task_id == "17"
        assert (server.accepted, len(server.requests)) == (2, 2)


@pytest.mark.parametrize("end", [Peer.silence, reset], ids=["stall", "rst"])
async def test_tls_create_cut_within_the_answer_is_unknown(
    certificate: Certificate, end: Callable[[Peer], Awaitable[None]]
) -> None:
    cuts = range(0, len(ACCEPTED), 40)
    script = in_turn(once(ACCEPTED[:cut], end=end) for cut in cuts)
    async with (
        serving(script, tls=certificate.context) as server,
        bridge(f"https://{server.host}", ca_bundle=certificate.file) as backend,
    ):
        for count, _ in enumerate(cuts, 1):
            assert type(await failure_of(backend.create(body_of(CONFIG)))) is SubmissionUnknownError
            assert len(server.requests) == server.accepted == count


# Proxies and the environment


async def test_proxy_gets_plain_requests_and_passes_them_on() -> None:
    async with (
        serving(forward) as proxy,
        bridge_at(always(ACCEPTED), proxy=f"http://{proxy.host}") as (
            server,
            backend,
        ),
    ):
        assert (await backend.create(body_of(CONFIG))).task_id == "17"
        assert [request.target for request in proxy.requests] == [f"http://{server.host}/v1/images/models"]
        assert [request.target for request in server.requests] == ["/v1/images/models"]


async def test_proxy_for_https_makes_a_tunnel_and_never_sees_the_key(certificate: Certificate) -> None:
    async with serving(forward) as proxy, serving(always(ACCEPTED), tls=certificate.context) as server:
        async with bridge(
            f"https://{server.host}", proxy=f"http://{proxy.host}", ca_bundle=certificate.file
        ) as backend:
            assert (await backend.create(body_of(CONFIG))).task_id == "17"
        [connect] = proxy.requests
        assert (connect.method, connect.target) == ("CONNECT", server.host)
        assert KEY.encode() not in connect.raw
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


PROXY_REFUSALS: dict[str, Script] = {
    "403": always(answer(403)),
    "407": always(answer(407, Proxy_Authenticate="Basic")),
    "502": always(answer(502, "<html>Bad gateway</html>")),
    "fin": once(),
    "rst": once(end=reset),
    "stall": once(end=Peer.silence),
    "no http": once(b"SSH-2.0-OpenSSH_9.2\r\n"),
}


@pytest.mark.parametrize("script", PROXY_REFUSALS.values(), ids=PROXY_REFUSALS)
@every_call
async def test_proxy_that_makes_no_tunnel_is_unreachable(call: Call, script: Script) -> None:
    async with serving(script) as proxy, serving(always(ACCEPTED)) as server:
        async with bridge(
            f"https://{server.host}", proxy=f"http://{PROXY_LOGIN}@{proxy.host}", request_timeout=30.0
        ) as backend:
            error = await failure_of(call(backend))
        assert type(error) is UnreachableError
        assert server.accepted == 0
        # A tunnel for a GET is asked for once more by aiohttp.
        assert 1 <= len(proxy.requests) <= (2 if call not in POSTS else 1)


async def test_proxy_that_is_not_there_is_unreachable() -> None:
    async with serving(forward) as proxy:
        host = proxy.host
    async with bridge_at(always(ACCEPTED), proxy=f"http://{PROXY_LOGIN}@{host}") as (server, backend):
        assert type(await failure_of(backend.create(body_of(CONFIG)))) is UnreachableError
        assert server.accepted == 0


async def test_proxy_that_answers_a_plain_create_itself_leaves_it_unknown() -> None:
    async with (
        serving(always(answer(502))) as proxy,
        bridge_at(always(ACCEPTED), proxy=f"http://{proxy.host}") as (
            _,
            backend,
        ),
    ):
        assert type(await failure_of(backend.create(body_of(CONFIG)))) is SubmissionUnknownError
        assert len(proxy.requests) == 1


async def test_proxy_credentials_in_the_address_are_sent_to_the_proxy_only() -> None:
    async with (
        serving(forward) as proxy,
        bridge_at(always(ACCEPTED), proxy=f"http://{PROXY_LOGIN}@{proxy.host}") as (server, backend),
    ):
        await backend.create(body_of(CONFIG))
        assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
        assert proxy.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert len(server.requests) == 1


@pytest.mark.parametrize("trust_env", [True, False])
async def test_proxy_of_the_environment_is_used_only_with_trust_env(
    monkeypatch: pytest.MonkeyPatch, trust_env: bool
) -> None:
    async with serving(forward) as proxy:
        for name in ("NO_PROXY", "no_proxy", "http_proxy", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        async with bridge_at(always(ACCEPTED), trust_env=trust_env) as (_, backend):
            await backend.create(body_of(CONFIG))
            assert len(proxy.requests) == trust_env


@every_call
async def test_netrc_is_never_used(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("NO_PROXY", "*")
    async with bridge_at(always(answer(500)), trust_env=True) as (server, backend):
        await failure_of(call(backend))
        assert [request.headers.get("authorization") for request in server.requests] == [
            None if call is CALLS["status"] else f"Bearer {KEY}"
        ]
