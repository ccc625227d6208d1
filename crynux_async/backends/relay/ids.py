"""What tasks are called at the relay, so that their owner finds them again with nothing but his wallet.

A task at the relay has a task id, which is secret until its owner validates it, a nonce, which the relay shows to him,
and a commitment, which is the hash of both and what the task is called. Here none of them is random: each follows from
the wallet, the job, the try and the member. So creating a task again can never make a second one, and a nonce alone
tells whether a task is this library's, whose it is, and with which task id it is validated. Tasks of other programs on
the same wallet are not recognised, because nobody can guess a nonce without the key.

    ident      = HMAC(sub-key, "ident", job, try, group)       16 bytes
    nonce      = ident, HMAC(sub-key, "place", ident, place)   16 + 16 bytes
    task id    = HMAC(sub-key, "task", ident)                  32 bytes
    commitment = Keccak-256(task id, nonce)

A group is one run of a try: one task, or three when the network wants the result checked; the three share a task id.
When a run fails, the next one is another group, and has another task id: the relay takes all tasks of one task id for
one group, and would refuse their archives.

Source: crynux-relay service/validate_task.go (validateTaskID), models/inference_task.go (GetTaskGroupByTaskID).
"""

import hashlib
import hmac
import re

import attrs

from crynux_async.signing import Wallet
from crynux_async.signing.addresses import keccak256

GROUP_SIZE = 3
"""Tasks of a run that the network wants checked."""

_LABEL = b"crynux_async relay task ids, version 1"
# Half of a nonce: the other half tells the members of a group apart. 128 bits are never alike by chance.
_IDENT_BYTES = 16
_NONCE = re.compile(r"0x[0-9a-f]{64}", re.ASCII)


@attrs.frozen(kw_only=True)
class TaskIds:
    """The three names of one task.

    Attributes:
        commitment: What it is called: 0x and 64 hexadecimal digits.
        nonce: What the relay shows to its owner, in the same form.
        task_id: What its owner shows to validate it, in the same form; it is in no text of this value.
        place: Which task of its group it is, 0 to 2.
    """

    commitment: str
    nonce: str
    task_id: str = attrs.field(repr=False)
    place: int


class TaskNames:
    """The names of all tasks of one wallet.

    Args:
        wallet: Whose tasks they are. Only a key that is derived from its own is kept.
    """

    __slots__ = ("_key",)

    def __init__(self, wallet: Wallet) -> None:
        self._key = wallet.derive(_LABEL)

    def ids(self, job_id: str, try_number: int, member: int) -> TaskIds:
        """Return the names of a member of a try.

        Args:
            job_id: The job.
            try_number: Which try of it, >= 1.
            member: Which task of the try, >= 0: three to a group.
        """
        group, place = divmod(member, GROUP_SIZE)
        ident = self._derive("ident", job_id, str(try_number), str(group))[:_IDENT_BYTES]
        return self._of(ident, place)

    def recognised(self, commitment: str, nonce: str) -> TaskIds | None:
        """Return the names of a task that the relay shows, or None when this library did not make it.

        Args:
            commitment: What the relay calls it, in any case of letters.
            nonce: Its nonce as the relay shows it.
        """
        if not _NONCE.fullmatch(nonce.lower()):
            return None
        ident = bytes.fromhex(nonce[2:])[:_IDENT_BYTES]
        for place in range(GROUP_SIZE):
            ids = self._of(ident, place)
            # In constant time: nonces come from outside, and what they are compared with follows from the key.
            if hmac.compare_digest(ids.nonce, nonce.lower()):
                return ids if ids.commitment == commitment.lower() else None
        return None

    def sibling(self, ids: TaskIds, place: int) -> TaskIds:
        """Return the names of another task of the same group.

        Args:
            ids: One that this library has made.
            place: Which task of the group, 0 to 2.
        """
        return self._of(bytes.fromhex(ids.nonce[2:])[:_IDENT_BYTES], place)

    def _of(self, ident: bytes, place: int) -> TaskIds:
        nonce = ident + self._derive("place", ident.hex(), str(place))[:_IDENT_BYTES]
        task_id = self._derive("task", ident.hex())
        return TaskIds(
            commitment=f"0x{keccak256(task_id + nonce).hex()}",
            nonce=f"0x{nonce.hex()}",
            task_id=f"0x{task_id.hex()}",
            place=place,
        )

    def _derive(self, *parts: str) -> bytes:
        """Return 32 bytes for parts; each is told with its length, so that no two lists give the same message."""
        message = b"".join(len(part.encode()).to_bytes(4) + part.encode() for part in parts)
        return hmac.digest(self._key, message, hashlib.sha256)
