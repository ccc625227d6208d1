"""The emulated bridge's admin calls: every row of the facts' table, with signatures made by hand."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from crynux_async.emulator import Emulator
from crynux_async.emulator.bridge.admin import Owner
from crynux_async.secret import Secret
from crynux_async.signing import Wallet
from tests.emulator_client import CONFIG
from tests.signing.vectors import KEY

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
TOKEN = "Zq3-admin-token"
OWNER = Wallet(Secret(KEY))
STRANGER = Wallet(Secret("1".rjust(64, "0")))

pytestmark = pytest.mark.real_time


class Caller:
    """Sends admin calls with whatever proof a test wants."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self._http.request(method, self._url + path, **options) as response:
            body = await response.read()
            return response.status, json.loads(body) if body else None

    async def signed(
        self, path: str, signed: dict[str, Any], *, wallet: Wallet = OWNER, at: int | None = None, **body: Any
    ) -> tuple[int, Any]:
        timestamp = int(time.time()) if at is None else at
        proof = {"timestamp": timestamp, "signature": wallet.sign(signed, timestamp), **body}
        return await self.ask("POST", path, json=proof)

    async def new_key(self) -> str:
        status, answer = await self.signed("/v1/api_key", {})
        assert status == 200, answer
        return str(answer["data"]["api_key"])

    async def change(self, key: str, name: str, value: Any, **more: Any) -> tuple[int, Any]:
        return await self.signed(f"/v1/api_key/{key}/{name}", {"api_key": key, name: value}, **{name: value}, **more)

    async def delete(self, key: str, *, wallet: Wallet = OWNER) -> tuple[int, Any]:
        now = int(time.time())
        query = {"timestamp": str(now), "signature": wallet.sign({"api_key": key}, now)}
        return await self.ask("DELETE", f"/v1/api_key/{key}", params=query)

    async def create_job(self, key: str, **changes: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        return await self.ask("POST", "/v1/images/models", json={**CONFIG, **changes}, headers=headers)


@pytest_asyncio.fixture
async def bridge() -> AsyncIterator[Emulator]:
    owner = Owner(address=OWNER.address, admin_token=TOKEN, wei=1234 * 10**18 + 1)
    async with Emulator(unet="tiny", speed=1000.0, owner=owner) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def caller(bridge: Emulator) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as http:
        yield Caller(http, bridge.url)


def refused(field: str, message: str) -> tuple[int, dict[str, Any]]:
    return 400, {"message": "validation_error", "data": {"field_name": field, "message": message}}


def with_v(signature: str, v: int) -> str:
    return f"{signature[:-2]}{v:02x}"


def with_high_s(signature: str) -> str:
    """Return the other signature of the same message: n - s, with the other recovery id."""
    r, s, v = signature[2:66], int(signature[66:130], 16), int(signature[130:], 16)
    return f"0x{r}{ORDER - s:064x}{v ^ 1:02x}"


async def test_new_key_has_no_role_one_create_a_minute_and_a_year(caller: Caller) -> None:
    status, answer = await caller.signed("/v1/api_key", {})
    assert (status, answer["message"], set(answer["data"])) == (200, "success", {"api_key", "expires_at"})
    assert len(answer["data"]["api_key"]) == 44
    assert abs(answer["data"]["expires_at"] - time.time() - 365 * 86400) < 60
    key = answer["data"]["api_key"]
    assert await caller.create_job(key) == refused(
        "Authorization", "API key does not have required role: admin or chat"
    )
    assert (await caller.change(key, "role", "chat"))[0] == 200
    assert (await caller.create_job(key))[0] == 200
    status, answer = await caller.create_job(key)
    assert (status, answer["data"]["field_name"]) == (400, "rate_limit")


async def test_each_create_makes_another_key(caller: Caller) -> None:
    assert await caller.new_key() != await caller.new_key()


@pytest.mark.parametrize("place", ["form", "query"])
async def test_proof_of_a_create_may_be_a_form_or_in_the_query(caller: Caller, place: str) -> None:
    now = int(time.time())
    proof = {"timestamp": str(now), "signature": OWNER.sign({}, now)}
    status, _ = await caller.ask("POST", "/v1/api_key", **{"data" if place == "form" else "params": proof})
    assert status == 200


async def test_signature_of_another_wallet_is_an_invalid_signer_under_the_calls_own_field(caller: Caller) -> None:
    key = await caller.new_key()
    assert await caller.signed("/v1/api_key", {}, wallet=STRANGER) == refused("signature", "Invalid signer")
    assert await caller.delete(key, wallet=STRANGER) == refused("signature", "Invalid signer")
    for name, value in (("role", "chat"), ("use_limit", 5), ("rate_limit", 5)):
        assert await caller.change(key, name, value, wallet=STRANGER) == refused("client_id", "Invalid signer")


@pytest.mark.parametrize(
    "form",
    [
        '{"role":"chat","api_key":"KEY"}TIME',  # keys not sorted
        '{"api_key": "KEY", "role": "chat"}TIME',  # spaces
        '{"api_key":"KEY","role":"chat"} TIME',
        '{"api_key":"KEY"}TIME',
        '{"api_key":"KEY","role":"chat","timestamp":TIME}TIME',
    ],
)
async def test_other_canonical_form_is_an_invalid_signer(caller: Caller, form: str) -> None:
    key, now = await caller.new_key(), int(time.time())
    signature = sign_bytes(form.replace("KEY", key).replace("TIME", str(now)).encode())
    body = {"role": "chat", "timestamp": now, "signature": signature}
    assert await caller.ask("POST", f"/v1/api_key/{key}/role", json=body) == refused("client_id", "Invalid signer")


async def test_sha3_in_place_of_keccak_is_an_invalid_signer(caller: Caller) -> None:
    import hashlib

    from btclib_secp256k1 import recovery

    now = int(time.time())
    signature, v = recovery.sign(hashlib.sha3_256(b"{}%d" % now).digest(), bytes.fromhex(KEY))
    body = {"timestamp": now, "signature": f"0x{signature.hex()}{v:02x}"}
    assert await caller.ask("POST", "/v1/api_key", json=body) == refused("signature", "Invalid signer")


@pytest.mark.parametrize("seconds", [-62, 62])
async def test_time_more_than_60_seconds_off_is_an_invalid_signature(caller: Caller, seconds: int) -> None:
    at = int(time.time()) + seconds
    assert await caller.signed("/v1/api_key", {}, at=at) == refused("signature", "Invalid signature")


@pytest.mark.parametrize("seconds", [-58, 58])
async def test_time_less_than_60_seconds_off_is_accepted(caller: Caller, seconds: int) -> None:
    assert (await caller.signed("/v1/api_key", {}, at=int(time.time()) + seconds))[0] == 200


@pytest.mark.parametrize(
    "spoil",
    [
        with_high_s,
        lambda signature: with_v(signature, 27),
        lambda signature: with_v(signature, 28),
        lambda signature: signature[:-2],
        lambda signature: signature + "00",
        lambda signature: signature[:-1] + "g",
        lambda signature: signature[2:],  # the first two characters are cut whatever they are
        lambda _: "0x",
    ],
)
async def test_signature_of_another_form_is_an_invalid_signature(caller: Caller, spoil: Any) -> None:
    now = int(time.time())
    body = {"timestamp": now, "signature": spoil(OWNER.sign({}, now))}
    assert await caller.ask("POST", "/v1/api_key", json=body) == refused("signature", "Invalid signature")


@pytest.mark.parametrize("write", [lambda text: "zz" + text[2:], lambda text: text.upper()])
async def test_case_and_first_two_characters_of_a_signature_do_not_matter(caller: Caller, write: Any) -> None:
    now = int(time.time())
    status, _ = await caller.ask(
        "POST", "/v1/api_key", json={"timestamp": now, "signature": write(OWNER.sign({}, now))}
    )
    assert status == 200


async def test_signature_of_one_character_crashes_the_handler(caller: Caller) -> None:
    assert await caller.ask("POST", "/v1/api_key", json={"timestamp": 1, "signature": "0"}) == (500, None)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"signature": "0x00"}, "timestamp", "timestamp is required"),
        ({"timestamp": 1}, "signature", "signature is required"),
        ({}, "timestamp", "timestamp is required"),
        (
            {"timestamp": "1", "signature": "0x00"},
            "timestamp",
            "json: cannot unmarshal string into Go struct field CreateAPIKeyInput.timestamp of type int64",
        ),
    ],
)
async def test_missing_or_wrong_proof_is_named(caller: Caller, body: Any, field: str, message: str) -> None:
    assert await caller.ask("POST", "/v1/api_key", json=body) == refused(field, message)


async def test_use_limit_of_zero_cannot_be_set_and_minus_one_can(bridge: Emulator, caller: Caller) -> None:
    key = await caller.new_key()
    assert await caller.change(key, "use_limit", 0) == refused("use_limit", "use_limit is required")
    assert await caller.change(key, "rate_limit", 0) == refused("rate_limit", "rate_limit is required")
    assert await caller.change(key, "use_limit", -1) == (200, {"message": "success"})


async def test_limit_as_text_does_not_bind(caller: Caller) -> None:
    key = await caller.new_key()
    place = "Go struct field ChangeUseLimitInputWithSignature.use_limit of type int64"
    assert await caller.change(key, "use_limit", "7") == refused(
        "use_limit", f"json: cannot unmarshal string into {place}"
    )


async def test_key_that_is_not_known_or_deleted_is_refused_by_name(caller: Caller) -> None:
    key = await caller.new_key()
    other = key[:-2] + ("A=" if key[-2] != "A" else "E=")
    assert await caller.change(other, "role", "chat") == refused("api_key", "invalid API key")
    assert await caller.delete(key) == (200, {"message": "success"})
    assert await caller.delete(key) == refused("api_key", "invalid API key")
    assert await caller.change(key, "role", "chat") == refused("api_key", "invalid API key")


async def test_key_of_less_than_8_characters_crashes_the_handler(caller: Caller) -> None:
    assert await caller.change("abcd", "role", "chat") == (500, None)


async def test_expired_key_cannot_be_changed(bridge: Emulator, caller: Caller) -> None:
    key = bridge.new_key(expired=True)
    assert await caller.change(key, "role", "chat") == refused("api_key", "API key has expired")


async def test_roles_are_added_once_and_of_any_text(bridge: Emulator, caller: Caller) -> None:
    key = await caller.new_key()
    for role in ("image", "chat", "chat", "a,b"):
        assert (await caller.change(key, "role", role))[0] == 200
    found = bridge._running.database.keys.find(key)
    assert found is not None
    assert found.roles == ("image", "chat", "a", "b")


async def test_changed_rate_limit_moves_the_rate_of_a_used_key_and_not_its_burst(caller: Caller) -> None:
    key = await caller.new_key()
    await caller.change(key, "role", "chat")
    assert (await caller.create_job(key))[0] == 200
    await caller.change(key, "rate_limit", 60)
    status, answer = await caller.create_job(key)
    # At 60 a minute and a burst that is still one, the next token is there after about a second.
    assert status == 400
    assert float(answer["data"]["message"].split()[-2]) <= 1.0


async def test_keys_survive_a_restart_with_what_was_changed(tmp_path: Any) -> None:
    owner = Owner(address=OWNER.address)
    async with aiohttp.ClientSession() as http:
        async with Emulator(folder=tmp_path, owner=owner) as emulator:
            caller = Caller(http, emulator.url)
            key, gone = await caller.new_key(), await caller.new_key()
            await caller.change(key, "role", "chat")
            await caller.change(key, "use_limit", 7)
            await caller.delete(gone)
        async with Emulator(folder=tmp_path, owner=owner) as emulator:
            found = emulator._running.database.keys.find(key)
            assert found is not None
            assert (found.roles, found.use_limit) == (("chat",), 7)
            assert emulator._running.database.keys.find(gone) is None


async def test_balance_is_a_bare_number_beyond_what_a_float_holds(caller: Caller) -> None:
    status, answer = await caller.ask("GET", "/v1/application/wallet/balance")
    assert (status, answer["data"]) == (200, {"address": OWNER.address, "balance": 1234 * 10**18 + 1})


async def test_nodes_models_and_counts_are_open_to_everybody(bridge: Emulator, caller: Caller) -> None:
    assert (await caller.ask("GET", "/v1/network/nodes"))[1]["data"] == {
        "num_total_nodes": 10,
        "num_available_nodes": 5,
    }
    assert (await caller.ask("GET", "/v1/models/base"))[1]["data"][0]["key"] == "crynux-network/stable-diffusion-v1-5"
    assert await caller.ask("GET", "/v1/models/lora") == refused("type", "Invalid model type")
    assert (await caller.ask("GET", "/v1/models/lora?type=sd_1_5"))[1]["data"] == []
    key = bridge.new_key()
    await caller.create_job(key, timeout=0)  # refused, and its id used up
    await caller.create_job(key)
    counts = (await caller.ask("GET", "/v1/count/task?duration=24"))[1]["data"]
    assert (counts["total_task_count"], counts["aborted_task_count"]) == (2, 1)


async def test_traces_need_the_token(caller: Caller) -> None:
    for query in ("", "?auth=", "?auth=wrong", f"?auth={TOKEN}x"):
        assert await caller.ask("GET", f"/v1/admin/tasks{query}") == (401, {"message": "unauthorized"})
    assert await caller.ask("GET", f"/v1/admin/tasks?auth={TOKEN}") == (200, {"message": "success", "data": []})


async def test_traces_are_closed_where_no_token_is_set(caller: Caller) -> None:
    async with Emulator() as emulator, aiohttp.ClientSession() as http:
        assert (await Caller(http, emulator.url).ask("GET", "/v1/admin/tasks?auth="))[0] == 401


async def test_trace_of_a_job_names_its_rounds_and_its_seed(bridge: Emulator, caller: Caller) -> None:
    key = bridge.new_key()
    first = (await caller.create_job(key))[1]["data"]["id"]
    second = (await caller.create_job(key, seed=0))[1]["data"]["id"]
    traces = (await caller.ask("GET", f"/v1/admin/tasks?auth={TOKEN}"))[1]["data"]
    assert [one["response"]["data"]["id"] for one in traces] == [second, first]  # the newest first
    assert (traces[1]["source"], traces[1]["request"]["seed"]) == ("image_finetune", 42)
    assert 0 < traces[0]["request"]["seed"] < 10**8
    round_ = traces[1]["parallel_tasks"][0]
    assert (round_["client_task_id"], round_["role"]) == (first, "primary")
    assert round_["events"][3]["details"] == {"chain_status": 1, "abort_reason": 0, "task_error": 0}
    status, one = await caller.ask("GET", f"/v1/admin/tasks/{round_['task_id']}/trace?auth={TOKEN}")
    assert (status, one["data"]["response"]["data"]["id"]) == (200, first)
    unknown = await caller.ask("GET", f"/v1/admin/tasks/0x00/trace?auth={TOKEN}")
    assert unknown == refused("task_id", "task trace not found")


async def test_newest_traces_are_kept_and_listed_up_to_the_limit(caller: Caller) -> None:
    owner = Owner(address=OWNER.address, admin_token=TOKEN, most_traces=3)
    async with Emulator(owner=owner) as emulator, aiohttp.ClientSession() as http:
        caller = Caller(http, emulator.url)
        key = emulator.new_key()
        for _ in range(5):
            await caller.create_job(key)
        traces = (await caller.ask("GET", f"/v1/admin/tasks?auth={TOKEN}&limit=100"))[1]["data"]
        assert [one["response"]["data"]["id"] for one in traces] == [5, 4, 3]
        traces = (await caller.ask("GET", f"/v1/admin/tasks?auth={TOKEN}&limit=1"))[1]["data"]
        assert [one["response"]["data"]["id"] for one in traces] == [5]


async def test_traces_are_lost_at_a_restart(tmp_path: Any) -> None:
    owner = Owner(admin_token=TOKEN)
    async with aiohttp.ClientSession() as http:
        async with Emulator(folder=tmp_path, owner=owner) as emulator:
            await Caller(http, emulator.url).create_job(emulator.new_key())
        async with Emulator(folder=tmp_path, owner=owner) as emulator:
            status, answer = await Caller(http, emulator.url).ask("GET", f"/v1/admin/tasks?auth={TOKEN}")
            assert (status, answer["data"]) == (200, [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/api_key", 404),
        ("POST", "/v1/api_key/x/other", 404),
        ("POST", "/v1/network/nodes", 404),
        ("GET", f"/v1/admin/tasks/x?auth={TOKEN}", 404),
    ],
)
async def test_other_methods_and_paths_are_not_found(bridge: Emulator, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as http, http.request(method, bridge.url + path) as response:
        assert (response.status, await response.text()) == (status, "404 page not found")


def sign_bytes(message: bytes) -> str:
    from btclib_secp256k1 import recovery

    from crynux_async.signing.addresses import keccak256

    signature, v = recovery.sign(keccak256(message), bytes.fromhex(KEY))
    return f"0x{signature.hex()}{v:02x}"
