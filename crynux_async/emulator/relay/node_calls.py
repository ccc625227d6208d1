"""The calls of nodes: join, quit, ask for work, report, upload.

What an upload holds is taken on trust: the relay compares hashes of the images with the score, which no client sees.

Source: crynux-relay api/v1/nodes, api/v2/nodes, api/v1/inference_tasks (submit_score.go, report_task_error.go,
upload_result.go).
"""

import re

from crynux_async.emulator.http.answers import Answer
from crynux_async.emulator.relay.inputs import JOIN, QUIT, SCORE, TASK_ERROR, UPLOAD, Call
from crynux_async.emulator.relay.nodes import NO_TASK, Node, NodeStatus
from crynux_async.emulator.relay.refusals import failed, invalid, not_allowed
from crynux_async.emulator.relay.service import Service, done, told
from crynux_async.emulator.relay.tasks import AWAITING_UPLOAD, Status
from crynux_async.emulator.relay.validation import HexError, from_hex

_VERSION = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,19}){2}", re.ASCII)
_UPLOADERS = AWAITING_UPLOAD | {Status.END_INVALIDATED, Status.END_GROUP_REFUND}
_HASH_BYTES = 8


def join(service: Service, call: Call) -> Answer:
    """Take a node in."""
    bound, address = service.admit_strictly(JOIN, call)
    values = bound.values
    if address != values["address"]:
        raise invalid("address", "Signer not allowed")
    if not _VERSION.fullmatch(values["version"]):
        raise invalid("version", "Invalid node version")
    nodes = service.relay.nodes
    known = nodes.find(address)
    if known is not None and known.status is not NodeStatus.QUIT:
        raise invalid("address", "Node already joined")
    if nodes.stakes.get(address, 0) != values["staking"]:
        raise failed("staking amount mismatch")
    major, minor, patch = map(int, values["version"].split("."))
    node = Node(
        number=nodes.count + 1,
        address=address,
        gpu_name=" ".join(values["gpu_name"].split()),
        gpu_vram=values["gpu_vram"],
        version=(major, minor, patch),
        models=tuple(name.lower() for name in values["model_ids"]),
        stake=values["staking"],
    )
    service.relay.join(node, service.wall())
    return done()


def leave(service: Service, call: Call) -> Answer:
    """Let a node go."""
    bound, address = service.admit(QUIT, call)
    if bound.values["address"] != address:
        raise not_allowed()
    node = service.relay.nodes.find(address)
    if node is None:
        raise invalid("address", "Node not found")
    service.relay.quit(node)
    return done()


def current_task(service: Service, call: Call) -> Answer:
    """Tell a node what it has to do."""
    node = service.relay.nodes.find(call.path["address"])
    return told(service.relay.tasks[node.task].commitment if node is not None and node.task else NO_TASK)


def show(service: Service, call: Call) -> Answer:
    """Show a node to anybody."""
    address = call.path["address"]
    node = service.relay.nodes.find(address)
    if node is None:
        node = Node(
            number=0, address=address, gpu_name="", gpu_vram=0, version=(0, 0, 0), models=(), stake=0,
            status=NodeStatus.QUIT,
        )  # fmt: skip
        return told({**node.as_answer(), "version": ""})
    return told(node.as_answer())


def score(service: Service, call: Call) -> Answer:
    """Take a score."""
    bound, address = service.admit(SCORE, call)
    task = service.relay.find(bound.values["task_id_commitment"])
    try:
        is_good = len(from_hex(bound.values["score"])) % _HASH_BYTES == 0
    except HexError:
        is_good = False
    if task.status is Status.STARTED and task.selected_node == address and not is_good:
        raise invalid("score", "invalid score")
    service.relay.report_score(task, address, bound.values["score"], service.wall())
    return done()


def task_error(service: Service, call: Call) -> Answer:
    """Take a report of an error."""
    bound, address = service.admit(TASK_ERROR, call)
    task = service.relay.find(bound.values["task_id_commitment"])
    service.relay.report_error(task, address, bound.values["task_error"], service.wall())
    return done()


def upload(service: Service, call: Call) -> Answer:
    """Take a result; that of a group's other members is taken and not kept."""
    bound, address = service.admit(UPLOAD, call)
    task = service.relay.find(bound.values["task_id_commitment"])
    if task.selected_node != address:
        raise invalid("Signature", "Signer not allowed")
    if task.status not in _UPLOADERS:
        raise invalid("task_id_commitment", "Task not validated")
    if "files" not in bound.files:
        raise invalid("files", "Files is empty")
    checkpoints = bound.files.get("checkpoint", [])
    if not checkpoints:
        raise invalid("checkpoint", "Checkpoint not uploaded")
    if len(checkpoints) != 1:
        raise invalid("checkpoint", "More than one checkpoint file")
    # Of a group only the winner's result is kept; the others' uploads are answered and dropped.
    if task.status in AWAITING_UPLOAD:
        service.results.keep(task, images=bound.files["files"], checkpoint=checkpoints[0])
        service.relay.finish(task, service.wall())
    return done()
