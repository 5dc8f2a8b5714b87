"""The key that signs the tokens: a token that one machine mailed must be valid on all of them."""


def signing_key(setting):
    """Return `setting`; raise `ValueError` when it is empty."""
    if not setting:
        raise ValueError("it must be set, to the same on every machine; for example what `openssl rand -hex 32` prints")
    return setting
