"""The errors this package raises on purpose."""


class DmspError(ValueError):
    """Something the user can mend: the message names the offending value and the remedy."""


class OutOfMemoryError(DmspError, MemoryError):
    """Memory ran out; the message says what takes less."""


def on_one_line(name: object) -> str:
    """Return a name or a message for people: on one line, escapes for what no screen shows."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name)
    )
