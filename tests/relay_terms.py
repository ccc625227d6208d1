"""Puts answers of a relay into the recordings' terms: what differs from run to run becomes a placeholder."""

import json
import re
from typing import Any

_UNKNOWN = "0x" + "ab" * 32
_CREATOR = "2c7536E3605D9C16a7a3D7b1898e529396a65c23"
_COMMITMENT = re.compile(r"/inference_tasks/(0x[0-9a-fA-F]{64})")
_HEX = re.compile(r"0x[0-9a-fA-F]{64}(?![0-9a-fA-F])")
_PLACEHOLDERS = [
    (re.compile(r'"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d)"'), '"<TIME>"'),
    (re.compile(r'"now":\s*\d+'), '"now":"<INT>"'),
    (re.compile(r'"sequence":\s*\d+'), '"sequence":"<INT>"'),
    (re.compile(r'"(id|created_at|expires_at|total)":\d+'), r'"\1":"<INT>"'),
    (re.compile(r"eyJ[\w.-]+"), "<JWT>"),
    (re.compile(r'("selected_node":\s*")0x[0-9a-fA-F]{40}"'), r'\1<NODE>"'),
    (re.compile(r'("qos_score":\s*)([1-9]\d*)'), r'\1"<QOS>"'),
    (re.compile(rf'("creator":\s*")(?!0x{_CREATOR})0x[0-9a-fA-F]{{40}}"'), r'\1<RANDOM ADDRESS>"'),
    (re.compile(rf'("address":\s*")0x(?!{_CREATOR[:8]})[0-9a-fA-F]{{40}}"'), r'\1<NODE>"'),
    (re.compile(r'("data":")\d{6,}(")'), r"\1<WEI>\2"),
]


class Terms:
    """The names that the ids of one scenario have in its recording."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def answers(self, steps: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """Return name and answer of every step."""
        for step in steps:
            self._learn(step)
        return [(step["name"], self._answer(step["response"])) for step in steps]

    def _learn(self, step: dict[str, Any]) -> None:
        match = _COMMITMENT.search(step["path"])
        if match and step["method"] == "POST" and step["path"].count("/") == 3:
            self._name("C", match[1])
        sent = _document(step["request_body"])
        self._name_all(sent, nonce="NONCE", task_id="TASKID")
        for commitment in sent.get("task_id_commitments") or []:
            self._name("C", commitment)
        said = _document(step["response"].get("body")).get("data")
        if isinstance(said, dict) and said.get("sampling_seed"):
            self._name_all(said, sampling_seed="SEED", nonce="NONCE", task_id_commitment="C")

    def _name_all(self, values: dict[str, Any], **kinds: str) -> None:
        for name, kind in kinds.items():
            if isinstance(values.get(name), str):
                self._name(kind, values[name])

    def _name(self, kind: str, value: str) -> str:
        value = value.lower()
        if value not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[value] = f"<{kind}{self._counts[kind]}>"
        return self._names[value]

    def _answer(self, response: dict[str, Any]) -> dict[str, Any]:
        answer = {name: self._text(value) if name == "body" else value for name, value in response.items()}
        if "headers" in answer:
            # "Connection: close" is what this client asks for, and the recording one did not.
            headers = {name: value for name, value in answer["headers"].items() if name not in ("Date", "Connection")}
            if "Last-Modified" in headers:
                headers["Last-Modified"] = "<HTTPTIME>"
            if answer.get("body", "").startswith("{"):
                headers.pop("Content-Length", None)
            answer["headers"] = headers
        return answer

    def _text(self, text: str) -> str:
        text = _HEX.sub(self._id, text)
        for pattern, placeholder in _PLACEHOLDERS:
            text = pattern.sub(placeholder, text)
        return text

    def _id(self, match: re.Match[str]) -> str:
        value = match[0].lower()
        return self._names.get(value) or (match[0] if value == _UNKNOWN else self._name("HEX", value))


def _document(text: Any) -> dict[str, Any]:
    if isinstance(text, dict):
        return dict(text["multipart"])
    try:
        document = json.loads(text or "null")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
