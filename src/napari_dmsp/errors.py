"""The errors this package raises on purpose."""


class DmspError(ValueError):
    """Something the user can mend: the message names the offending value and the remedy."""
