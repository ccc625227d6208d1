"""The calls of creators: create, look, validate, cancel, and the files of a task.

Source: crynux-relay api/v1/inference_tasks.
"""

import json
import re

from crynux_async.emulator.http.answers import Answer
from crynux_async.emulator.http.binding import media_type
from crynux_async.emulator.http.files import serve
from crynux_async.emulator.relay.arguments import ArgumentsError, normalised, parsed
from crynux_async.emulator.relay.inputs import (
    ABORT,
    CREATE,
    GET_OF_TASK,
    GET_RESULT,
    GET_TASK,
    POINTERS,
    VALIDATE,
    Bound,
    Call,
    bind,
)
from crynux_async.emulator.relay.refusals import failed, invalid, not_allowed
from crynux_async.emulator.relay.relay import Order
from crynux_async.emulator.relay.schema import violation
from crynux_async.emulator.relay.service import Service, done, told
from crynux_async.emulator.relay.tasks import FINE_TUNING, Status
from crynux_async.emulator.relay.validation import GROUP_SIZE, Proof, validate
from crynux_async.emulator.signatures import PanicError

_VERSION = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,19}){2}", re.ASCII)
# Images of a group's winner are given out, its archive is not.
_WITH_IMAGES = frozenset((Status.END_SUCCESS, Status.END_GROUP_SUCCESS))


def create(service: Service, call: Call) -> Answer:
    """Take a task in."""
    bound, creator = service.admit(CREATE, call)
    if service.whitelist is not None and creator not in service.whitelist:
        raise invalid("address", "Signer not allowed")
    args = _args(bound)
    # After the schema and before the money: the order in which the relay's answers were recorded.
    service.relay.check_new(bound.values["task_id_commitment"])
    checkpoint = _checkpoint(bound, call)
    order = _order(bound, args)
    task = service.relay.create(order, creator, service.seeds.draw(creator), service.wall())
    if checkpoint is not None:
        service.results.keep_input(task, checkpoint)
    return told(task.as_answer())


def look(service: Service, call: Call) -> Answer:
    """Show a task to its creator or its node."""
    task, _ = service.task(GET_TASK, call, is_for_node=True)
    return told(task.as_answer())


def selected_node(service: Service, call: Call) -> Answer:
    """Show the node of a task."""
    bound, address = service.admit(GET_OF_TASK, call)
    task = service.relay.find(bound.values["task_id_commitment"])
    node = service.relay.nodes.find(task.selected_node)
    if node is None:
        raise invalid("task_id_commitment", "Task not started")
    if address not in (task.creator, task.selected_node):
        raise not_allowed()
    return told(node.as_selected(), name="Data")


def abort(service: Service, call: Call) -> Answer:
    """Cancel a waiting task."""
    bound, address = service.admit(ABORT, call)
    task = service.relay.find(bound.values["task_id_commitment"])
    if address != task.creator:
        raise not_allowed()
    service.relay.cancel(task, bound.values["abort_reason"], service.wall())
    return done()


def validate_tasks(service: Service, call: Call) -> Answer:
    """Validate one task or three."""
    # The number of commitments before the signature: a wrong one is told to strangers, too.
    values = bind(VALIDATE, call).values
    commitments = values["task_id_commitments"]
    if len(commitments) not in (1, GROUP_SIZE):
        raise invalid("task_id_commitments", "TaskIDCommitments length incorrect")
    address = service.signer(VALIDATE, values)
    tasks = []
    for commitment in commitments:
        task = service.relay.tasks.get(commitment.lower())
        if task is None:
            # Validation asks the database itself: a 500 in its words, where every other call says 400 and the field.
            raise failed("record not found")
        if task.creator != address:
            raise not_allowed()
        tasks.append(task)
    proof = Proof(task_id=values["task_id"], vrf_proof=values["vrf_proof"], public_key=values["public_key"])
    validate(service.relay, tasks, proof, service.wall())
    return done()


def input_checkpoint(service: Service, call: Call) -> Answer:
    """Serve the checkpoint that a task starts from."""
    bound, address = service.admit(GET_OF_TASK, call)
    task = service.relay.find(bound.values["task_id_commitment"])
    if task.status is Status.QUEUED:
        raise invalid("task_id", "Task not ready")
    if address not in (task.creator, task.selected_node):
        raise not_allowed()
    file = service.results.input(task)
    if file is None:
        raise invalid("task_id", "Checkpoint file not found")
    return serve(file, call.headers)


async def result_checkpoint(service: Service, call: Call) -> Answer:
    """Serve the archive of a task; that of a group's winner is refused as well."""
    task, _ = service.task(GET_OF_TASK, call)
    # The winner of a group ends as END_GROUP_SUCCESS, which this forgets: its archive is there and for nobody.
    if task.status is not Status.END_SUCCESS:
        raise invalid("task_id", "Task checkpoint not uploaded")
    file = await service.results.checkpoint(task)
    if file is None:
        raise invalid("task_id", "Checkpoint file not found")
    return serve(file, call.headers)


def result_image(service: Service, call: Call) -> Answer:
    """Serve one of a task's validation images."""
    task, _ = service.task(GET_RESULT, call)
    if task.status not in _WITH_IMAGES:
        raise invalid("task_id", "Task results not uploaded")
    file = service.results.image(task, call.path["index"])
    if file is None:
        raise invalid("index", "File not found")
    return serve(file, call.headers)


def _args(bound: Bound) -> str:
    """Return a create's arguments as they are kept, after all that is checked on the way."""
    text, task_type = bound.values["task_args"], bound.values["task_type"]
    try:
        parsed(text)
    except ArgumentsError as error:
        raise failed(str(error)) from None
    complaint = violation(json.loads(text), task_type)
    if complaint is not None:
        raise invalid("task_args", complaint)
    if task_type == FINE_TUNING and not bound.values["timeout"]:
        raise invalid("timeout", "Timeout is required for fine-tune tasks")
    if not _VERSION.fullmatch(bound.values["task_version"]):
        raise invalid("task_version", "Invalid task version")
    return normalised(text)


def _checkpoint(bound: Bound, call: Call) -> bytes | None:
    if bound.values["task_type"] != FINE_TUNING:
        return None
    if media_type(call.headers.get("Content-Type", "")) != "multipart/form-data" or "checkpoint" not in bound.files:
        return None
    files = bound.files["checkpoint"]
    if len(files) != 1:
        raise invalid("checkpoint", "More than one checkpoint file uploaded")
    return files[0]


def _order(bound: Bound, args: str) -> Order:
    values = bound.values
    if any(values[name] is None for name in POINTERS):
        raise PanicError
    if values["task_type"] != FINE_TUNING:
        # The relay runs images and language models as well; this one says of them what the relay says of the unknown.
        raise failed(f"unknown task type {values['task_type']}")
    return Order(
        commitment=values["task_id_commitment"],
        nonce=values["nonce"],
        args=args,
        task_type=values["task_type"],
        version=values["task_version"],
        timeout=values["timeout"],
        min_vram=values["min_vram"],
        required_gpu=" ".join(values["required_gpu"].split()),
        required_gpu_vram=values["required_gpu_vram"],
        size=values["task_size"],
        fee=values["task_fee"],
        model_ids=tuple(name.lower() for name in values["task_model_ids"]),
    )
