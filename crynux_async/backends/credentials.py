"""What the name of a credential tells, for those who read a ledger and load no service."""


def is_wallet(key_id: str) -> bool:
    """Whether a credential is a wallet, which only the relay takes."""
    return key_id.startswith("0x")
