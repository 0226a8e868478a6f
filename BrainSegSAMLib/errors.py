"""The errors that a user can cause or meet; every message is a sentence that says what is wrong and what to do."""

from __future__ import annotations


class BrainSegSAMError(Exception):
    """Base of all errors that carry a message for the user; anything else that escapes is our own mistake."""


class InputError(BrainSegSAMError, ValueError):
    """An image, folder, table or setting that cannot be used; the message names it."""


class GeometryError(InputError):
    """Grids that do not fit each other or cannot be used (spacing, direction, overlap)."""


class ModelError(BrainSegSAMError):
    """A model folder, catalogue entry or weights file that cannot be used."""


class DownloadError(BrainSegSAMError):
    """A download that did not complete or did not match its checksum."""


class OutputError(BrainSegSAMError):
    """A result that could not be written (permissions, full disk)."""


class DependencyError(BrainSegSAMError):
    """A Python package that is needed is not installed; the message says how to install it."""


class WorkerError(BrainSegSAMError):
    """The process that works for the interface crashed, was killed, hangs, or failed in a way that nobody foresaw."""


class Cancelled(BrainSegSAMError):  # noqa: N818  (a request, not a failure)
    """The user cancelled the job."""

    def __init__(self, message: str = "The job was cancelled.") -> None:
        super().__init__(message)


def explained(error: BaseException) -> BrainSegSAMError:
    """Any error as one that carries a message for the user; one that does already is given back as it is."""
    if isinstance(error, BrainSegSAMError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return DependencyError(
            f"The Python package '{error.name}' is needed and not installed. Install it and try again."
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch has one of its own
        return WorkerError(
            "There was not enough memory. Close other programs, use a smaller image, or choose the processor."
        )
    reason = f"{type(error).__name__}: {error}".strip(": ")
    return WorkerError(
        f"The work failed in a way that was not foreseen ({reason}). Please report it, with the log."
    )
