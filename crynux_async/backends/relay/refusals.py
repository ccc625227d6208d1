"""What the relay's refusals are for everybody above this folder: typed errors that say what to do."""

from collections.abc import Mapping
from types import MappingProxyType

from crynux_async.backends.http.answer import LOGIN_WANTED, Answer
from crynux_async.backends.relay.answers import Refusal, Why, read_refusal
from crynux_async.errors import (
    AuthError,
    BackendError,
    NotFoundError,
    OwnershipError,
    ProtocolError,
    QuotaError,
    RejectedError,
    ServerError,
)

_ERRORS: Mapping[Why, tuple[type[BackendError], str]] = MappingProxyType(
    {
        Why.CLOCK_OR_SIGNATURE: (AuthError, "the relay does not accept the wallet's signature"),
        Why.NOT_OWNER: (OwnershipError, "the task belongs to another wallet"),
        Why.NOT_LISTED: (AuthError, "this relay takes tasks of certain wallets only; ask its operator to add yours"),
        Why.NOT_FOUND: (NotFoundError, "the relay has no such task or file, or not any more"),
        Why.EXISTS: (RejectedError, "the task exists already"),
        Why.TOO_LITTLE_MONEY: (
            QuotaError,
            "the wallet's account at the relay has less than the fee: send CNX from it to the relay's deposit address",
        ),
        Why.NOT_QUEUED: (RejectedError, "the task does not wait for a node any more, so it cannot be cancelled"),
        Why.NOT_UPLOADED: (NotFoundError, "the node has not uploaded this yet"),
        Why.TOO_LARGE: (RejectedError, "the relay does not take so large a request"),
        Why.FIELD: (RejectedError, "the relay does not accept a field"),
        Why.OTHER: (ServerError, "the relay has trouble of its own"),
    }
)
_MISPLACED = (RejectedError, "the relay does not validate the task")


def error_of(refusal: Refusal, answer: Answer) -> BackendError:
    """Return the error that a refusal is.

    Args:
        refusal: The refusal.
        answer: The answer that it stands in.
    """
    kind, sentence = _ERRORS.get(refusal.why, _MISPLACED)
    named = f"{refusal.field}: " if refusal.field else ""
    said = f" ({named}{refusal.message})" if refusal.message else ""
    return kind(f"{sentence}{said}", field=refusal.field or None, **answer.facts)


def refusal_in(answer: Answer) -> Refusal:
    """Return the refusal that an answer other than 200 is.

    Raises:
        ServerError: It is a proxy's, or the relay broke down over it.
        ProtocolError: It is nothing that a relay says.
    """
    refusal = read_refusal(answer.status, answer.body)
    if refusal is not None:
        return refusal
    if answer.status >= 500 and answer.status != LOGIN_WANTED:
        raise ServerError(f"the relay, or a proxy before it, has trouble: {answer.summary}", **answer.facts)
    where = f" It points to {answer.location}." if answer.location else ""
    if answer.status == LOGIN_WANTED:
        where = " The network wants you to log in to it first, in a browser."
    # A page or a redirect stands where the relay should be: asking again cannot mend the address.
    raise ProtocolError(f"this is not a relay's answer: {answer.summary}.{where}", is_lasting=True, **answer.facts)
