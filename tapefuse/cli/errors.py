"""What goes wrong on a command line."""

from __future__ import annotations

from tapefuse._errors import TapefuseError


class UsageError(TapefuseError):
    """Something on the command line is not what it should be; the message is one line and says what was expected."""
