"""The errors a person can cause or mend; everything else that is raised is our own defect.

Each message is one line that names the thing, the value and the remedy. The command line prints it and exits with
`exit_code`; Python callers catch `TamingError`.
"""


class TamingError(Exception):
    """Something failed that the message explains; exit code 1."""

    exit_code = 1


class UsageError(TamingError):
    """A flag, config key or argument is wrong; nothing has been started. Exit code 2."""

    exit_code = 2


class BadImageError(TamingError):
    """One picture (or condition map) cannot be read; callers that process many skip and list it."""


class BadFileError(TamingError):
    """A model, token, run or weights file is damaged, of another kind, or does not fit what it is used with."""


class MissingWeightsError(TamingError):
    """A pretrained network's weights are not on this machine."""


class NonFiniteLossError(TamingError):
    """A loss term, a gradient or a weight became NaN or infinite; it was neither applied nor saved."""


class DiskError(TamingError):
    """A file cannot be written: its disk is full, a quota is used up, or it is not allowed. What was there is whole."""


class LostProcessError(TamingError):
    """Another one of the processes that do this together has ended, or cannot be reached."""


class OfOneProcessError(TamingError):
    """What a process but the first raised while they worked together: most often all of them did, and the first one
    says so; `told` where it is sure to."""

    def __init__(self, error: TamingError, *, told: bool = False) -> None:
        super().__init__(str(error))
        self.told, self.stopped = told, isinstance(error, Interrupted)
        self.exit_code = error.exit_code


class Interrupted(TamingError):  # noqa: N818 - not a failure: the work was saved, and can go on
    """A signal asked the work to stop; what was done is saved. Exit code 130 (INT) or 143 (TERM)."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
