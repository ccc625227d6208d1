"""What a wallet signs, and how: requests to a bridge's admin calls and to the relay.

Pure: nothing here waits. Users import ``Wallet`` from here. Read ``wallet`` (the handle on a key), ``key_files`` (where
keys come from), ``canonical`` (the bytes that are signed), ``addresses`` (Keccak-256 and EIP-55) and ``vrf`` (the proof
that validates a task). The libraries behind it come with ``crynux-async[wallet]``.
"""

from crynux_async.signing.canonical import canonical_json
from crynux_async.signing.vrf import VrfOutput
from crynux_async.signing.wallet import Wallet

__all__ = ["VrfOutput", "Wallet", "canonical_json"]
