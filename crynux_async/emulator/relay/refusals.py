"""What the relay says no with."""

from crynux_async.emulator.http.answers import RefusedError, exception, validation_error


def invalid(field: str, message: str) -> RefusedError:
    """Return a refusal that is the client's fault: 400 with the field."""
    return RefusedError(validation_error(field, message))


def failed(message: str) -> RefusedError:
    """Return a refusal that is the server's: 500 with the message."""
    return RefusedError(exception(message))


def not_allowed() -> RefusedError:
    """Return the refusal of somebody else's signature."""
    return invalid("signature", "Signer not allowed")


def not_found() -> RefusedError:
    """Return the refusal of a task that there is not."""
    return invalid("task_id_commitment", "Task not found")
