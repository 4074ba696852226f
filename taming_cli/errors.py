"""The errors that a user can cause or fix; any other exception is a defect of this package.

Each message is one line that names the thing, the value and the remedy. The command line prints it and exits with
`exit_code`; Python callers catch `TamingError`.
"""


class TamingError(Exception):
    """A failure that the message explains. Exit code 1."""

    exit_code = 1


class UsageError(TamingError):
    """A flag, config key or argument is wrong; nothing was started. Exit code 2."""

    exit_code = 2


class BadImageError(TamingError):
    """A picture or condition map cannot be read; callers that process many of them skip and list it."""


class BadFileError(TamingError):
    """A model, token, run or weights file is damaged, of another kind, or does not fit what it is used with."""


class MissingWeightsError(TamingError):
    """A pretrained network's weights are not on this machine."""


class NonFiniteLossError(TamingError):
    """A loss term, a gradient or a weight became NaN or infinite; it was neither applied nor saved."""


class DiskError(TamingError):
    """A file cannot be written: the disk is full, a quota is exceeded, or permission is missing. Existing files are
    intact."""


class LostProcessError(TamingError):
    """Another process of the same command has ended, or cannot be reached."""


class OfOneProcessError(TamingError):
    """An error in a process other than the first one. Usually all processes raise it and the first one prints it.
    `reported` is true where the first one is known to print it."""

    def __init__(self, error: TamingError, *, reported: bool = False) -> None:
        super().__init__(str(error))
        self.reported, self.stopped = reported, isinstance(error, Interrupted)
        self.exit_code = error.exit_code


class Interrupted(TamingError):  # noqa: N818 - not a failure: the work was saved, and can be continued
    """A signal requested a stop; the work done so far is saved. Exit code 130 (INT) or 143 (TERM)."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
