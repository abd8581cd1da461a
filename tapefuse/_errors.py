"""Every exception tapefuse raises on purpose. Each derives from the builtin that NumPy users expect."""

from __future__ import annotations

import numpy as np


class TapefuseError(Exception):
    """Base of all errors raised by tapefuse; mixed into a builtin exception below."""


class ShapeError(TapefuseError, ValueError):
    """Operand shapes do not fit the operation."""


class AxisError(ShapeError, np.exceptions.AxisError):
    """An axis that an operand does not have, or one that is named twice."""


class DTypeError(TapefuseError, TypeError):
    """Operand dtypes do not fit the operation."""


class ConcretizationError(TapefuseError, TypeError):
    """A traced value was used where a concrete one is needed (`if`, `float()`, `.numpy()`)."""


class StagingError(TapefuseError, ValueError):
    """A loop or branch on traced values does something that only Python can do, or leaves a variable undefined."""


class LeakedValueError(TapefuseError, TypeError):
    """A traced value was used outside the trace that made it."""


class TapeError(TapefuseError, RuntimeError):
    """A gradient tape was used against its life cycle."""


class VariableError(TapefuseError, RuntimeError):
    """A variable was used in a way that would lose its state."""


class MissingGradientError(TapefuseError, LookupError):
    """An operation between target and source has no derivative rule."""


class VerifyError(TapefuseError, ValueError):
    """A graph breaks a rule of the IR."""


class ParseError(TapefuseError, ValueError):
    """Text that is not IR; the message names line, column and what was expected."""


class CompileError(TapefuseError, RuntimeError):
    """A program could not be turned into native code."""


class IndexOutOfRangeError(TapefuseError, IndexError):
    """An index computed at run time lies outside its axis; nothing was read or written with it."""


class PerformanceWarning(UserWarning):
    """A slower path was taken; the message says which and how to avoid it."""


class CacheWarning(UserWarning):
    """The cache on disk could not be used; the program runs without it."""


_OF_A_MESSAGE = (TypeError, ValueError, IndexError, np.linalg.LinAlgError)


def reworded(error: Exception, message: str) -> Exception:
    """An exception of the same type with another message; one that takes more than a message gets it as a note."""
    if isinstance(error, TapefuseError) or type(error) in _OF_A_MESSAGE:
        return type(error)(message)
    error.add_note(message)
    return error


def noted(error: Exception, where: str) -> Exception:
    """The exception with a note of the user's line, if that is known."""
    if where:
        error.add_note(f"at {where}")
    return error
