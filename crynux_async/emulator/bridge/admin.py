"""The bridge's calls besides jobs: keys, signed by its wallet; and what it tells everybody, or who has the admin token.

Source: crynux-bridge api/v1/api_key/*.go, api/v1/routes.go, api/v1/middleware/admin_auth.go, api/v1/count/count.go,
loopfz/gadgeto tonic (the order of binding: body, query, path).
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import attrs
from aiohttp import web

from crynux_async.emulator.bridge.database import Database
from crynux_async.emulator.bridge.go_limiter import Buckets
from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.bridge.keys import AuthorizationError, Key, KeyOptions, PanicError
from crynux_async.emulator.bridge.routes import read_body
from crynux_async.emulator.bridge.traces import trace
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.go_text import NumberTextError, parse_int
from crynux_async.emulator.http.answers import (
    Answer,
    RefusedError,
    json_answer,
    success,
    validation_error,
)
from crynux_async.emulator.http.binding import (
    JSON,
    BindError,
    Field,
    Struct,
    bind_form,
    bind_json,
    media_type,
    read_form,
)
from crynux_async.emulator.signatures import PanicError as SignaturePanicError
from crynux_async.emulator.signatures import request_signer

_HOUR = 3600.0
# What the bridge's own call makes: no role, one create a minute, 20 uses.
_KEY_OPTIONS = KeyOptions(roles=(), rate_limit=1, use_limit=20, primed=False)
_PROOF = (Field(name="timestamp", kind="int64"), Field(name="signature", kind="string"))
_LISTED = 50
_MODEL_TYPES = ("sd_1_5", "sd_2_1", "sd_xl", "sdxl_turbo")
_BASE_MODELS = (("Stable Diffusion 1.5", "crynux-network/stable-diffusion-v1-5", "sd_1_5"),)


def _struct(name: str, *fields: Field) -> Struct:
    return Struct(package="apikey", name=name, fields=(*fields, *_PROOF))


_STRUCTS = {
    "": _struct("CreateAPIKeyInput"),
    "role": _struct("AddRoleInputWithSignature", Field(name="role", kind="string")),
    "use_limit": _struct("ChangeUseLimitInputWithSignature", Field(name="use_limit", kind="int64")),
    "rate_limit": _struct("ChangeRateLimitInputWithSignature", Field(name="rate_limit", kind="int64")),
    "delete": _struct("DeleteAPIKeyInputWithSignature"),
}


@attrs.frozen(kw_only=True)
class Owner:
    """Who runs the bridge.

    Attributes:
        address: The wallet whose signature the bridge accepts, in its EIP-55 letter case, or "" for nobody's.
        admin_token: What opens the traces; "" closes them.
        most_traces: How many traces are kept.
        wei: What the wallet's account at the relay holds.
    """

    address: str = ""
    admin_token: str = ""
    most_traces: int = 100
    wei: int = 123_456_789_012_345_678_901_234  # sent as a bare number that no float64 holds, as the bridge sends it


@attrs.define(eq=False, kw_only=True)
class Admin:
    """The calls.

    Attributes:
        owner: Who runs the bridge.
        database: Its rows.
        buckets: Its rate limiters.
        clock: Its clock.
        speed: Seconds of training time per second, > 0.
        traced: Ids of jobs from this one on have traces: those before were made before the last start.
    """

    owner: Owner
    database: Database
    buckets: Buckets
    clock: ServerClock
    speed: float
    traced: int

    async def answer(self, request: web.BaseRequest) -> Answer | None:
        """Return the answer to a request, or None when it is none of these calls."""
        parts = request.path.strip("/").split("/")
        if parts[:2] == ["v1", "api_key"]:
            return await self._keys(request, parts[2:])
        if request.method != "GET":
            return None
        if parts[:3] == ["v1", "admin", "tasks"]:
            return self._traces(request, parts[3:])
        read = self._reads().get("/".join(parts))
        return None if read is None else read(request.query)

    async def _keys(self, request: web.BaseRequest, rest: list[str]) -> Answer | None:
        match request.method, rest:
            case "POST", []:
                action, text = "", ""
            case "POST", [text, ("role" | "use_limit" | "rate_limit") as action]:
                pass
            case "DELETE", [text]:
                action = "delete"
            case _:
                return None
        body, is_too_large = await read_body(request)
        try:
            values = _bind(_STRUCTS[action], request, body, is_too_large)
            return self._change(action, text, values)
        except BindError as error:
            return validation_error(error.field, str(error))
        except RefusedError as refused:
            return refused.answer

    def _change(self, action: str, text: str, values: Mapping[str, Any]) -> Answer:
        """Check who signed a change, and make it."""
        for name in values:
            # Go's "required" takes a zero for what is missing: that is why a limit of 0 cannot be set.
            if not values[name]:
                raise _refused(name, f"{name} is required")
        signed = {name: value for name, value in values.items() if name not in ("timestamp", "signature")}
        self._check_signer({**signed, "api_key": text} if action else {}, values, action)
        if not action:
            key = self.database.new_key(_KEY_OPTIONS)
            expires = int(self.clock.wall()) + 365 * 24 * int(_HOUR)
            return success({"api_key": key, "expires_at": expires})
        key_row = self._find(text)
        if action == "delete":
            self.database.delete_key(key_row)
        else:
            self._set(key_row, action, values[action])
        return json_answer(200, {"message": "success"})

    def _set(self, key: Key, action: str, value: Any) -> None:
        if action == "role":
            # Roles are one text with commas between them, so a comma inside of one makes two.
            roles = key.roles if value in key.roles else (*key.roles, *str(value).split(","))
            self.database.change_key(key, roles=roles)
            return
        self.database.change_key(key, **{action: value})
        if action == "rate_limit":
            self.buckets.change(key.index, value, self.clock.now())

    def _check_signer(self, signed: Mapping[str, Any], values: Mapping[str, Any], action: str) -> None:
        try:
            signer = request_signer(signed, values["timestamp"], values["signature"], now=self.clock.wall())
        except SignaturePanicError:
            raise RefusedError(Answer(status=500)) from None
        if signer is None:
            raise _refused("signature", "Invalid signature")
        # As text, letter case included.
        if signer != self.owner.address:
            # The handlers do not agree on the field.
            raise _refused("signature" if action in ("", "delete") else "client_id", "Invalid signer")

    def _find(self, text: str) -> Key:
        try:
            return self.database.keys.prove(text)
        except PanicError:
            raise RefusedError(Answer(status=500)) from None
        except AuthorizationError as error:
            raise _refused("api_key", str(error)) from None

    def _reads(self) -> Mapping[str, Callable[[Mapping[str, str]], Answer]]:
        return {
            "v1/network/nodes": lambda _: success({"num_total_nodes": 10, "num_available_nodes": 5}),
            "v1/application/wallet/balance": lambda _: success(
                {"address": self.owner.address, "balance": self.owner.wei}
            ),
            "v1/count/task": self._counts,
            "v1/models/base": lambda _: _listed(self._base_models()),
            "v1/models/lora": _lora_models,
        }

    def _counts(self, query: Mapping[str, str]) -> Answer:
        try:
            hours = parse_int(query.get("duration") or "0")
        except NumberTextError as error:
            return validation_error("duration", str(error))
        now = self.clock.now()
        jobs = [job for job in self.database.jobs.values() if now - job.created <= hours * _HOUR]
        ended = [job for job in jobs if self._status(job) == "success"]
        # A row whose create was refused has no node task, and 0 of 0 are aborted.
        aborted = sum(1 for job in jobs if job.outcome != "job" or self._status(job) == "failed")
        seconds = sum((job.progress(now, self.speed).ended or 0.0) / self.speed for job in ended)
        return success(
            {
                "total_task_count": len(jobs),
                "success_task_count": len(ended),
                "aborted_task_count": aborted,
                "unfinished_task_count": len(jobs) - len(ended) - aborted,
                "avg_task_time": int(seconds) // len(jobs) if jobs else 0,
            }
        )

    def _status(self, job: Job) -> str:
        return job.progress(self.clock.now(), self.speed).status

    def _base_models(self) -> list[dict[str, Any]]:
        at = "2023-08-10T00:00:00Z"
        return [
            {"id": index, "created_at": at, "updated_at": at, "deleted_at": None, "name": name, "key": key,
             "description": "", "link": f"https://huggingface.co/{key}", "type": kind}
            for index, (name, key, kind) in enumerate(_BASE_MODELS, start=1)
        ]  # fmt: skip

    def _traces(self, request: web.BaseRequest, rest: list[str]) -> Answer | None:
        if rest and not (len(rest) == 2 and rest[1] == "trace"):
            return None
        token = request.query.get("auth", "")
        if not self.owner.admin_token or token != self.owner.admin_token:
            return json_answer(401, {"message": "unauthorized"})
        jobs = [job for job in self.database.jobs.values() if job.outcome == "job" and job.task_id >= self.traced]
        kept = jobs[-self.owner.most_traces :] if self.owner.most_traces > 0 else []
        traces = (trace(job, now=self.clock.now(), speed=self.speed) for job in reversed(kept))
        if rest:
            wanted = next((one for one in traces if any(t["task_id"] == rest[0] for t in one["parallel_tasks"])), None)
            return validation_error("task_id", "task trace not found") if wanted is None else success(wanted)
        try:
            limit = parse_int(request.query.get("limit") or "0")
        except NumberTextError as error:
            return validation_error("limit", str(error))
        return _listed(list(traces)[: limit if limit > 0 else _LISTED])


def _bind(struct: Struct, request: web.BaseRequest, body: bytes, is_too_large: bool) -> dict[str, Any]:
    kind = request.headers.get("Content-Type", "")
    if media_type(kind) == JSON:
        values = bind_json(struct, body, too_large=is_too_large)
    else:
        values = bind_form(struct, read_form(body, kind, request.query_string, too_large=is_too_large))
    for name, texts in parse_qs(request.query_string).items():
        field = struct.find(name) if name in ("timestamp", "signature") else None
        if field is None or values[name]:
            continue
        try:
            values[name] = parse_int(texts[0]) if field.kind == "int64" else texts[0]
        except NumberTextError as error:
            raise BindError("timestamp", str(error)) from None
    return values


def _lora_models(query: Mapping[str, str]) -> Answer:
    if query.get("type") not in _MODEL_TYPES:
        return validation_error("type", "Invalid model type")
    return _listed([])


def _listed(data: list[dict[str, Any]]) -> Answer:
    return json_answer(200, {"message": "success", "data": data})


def _refused(field: str, message: str) -> RefusedError:
    return RefusedError(validation_error(field, message))
