"""Errors that reach a user: each is one clear line and knows the exit code of the command that it ends."""

from typing import ClassVar


class YuanError(Exception):
    """An error whose text is one line for a user: what is wrong, where, and the mend.

    Attributes:
        exit_code: what a command that ends with this error returns to the shell.
    """

    exit_code: ClassVar[int] = 1


class InputError(YuanError):
    """What the user gave is wrong: a manifest, a name, a file, a prompt. Nothing was changed."""

    exit_code: ClassVar[int] = 2


class WorkFailed(YuanError):
    """The input was right and the work failed all the same."""


class AttemptLost(WorkFailed):
    """The work broke down by no fault of its own (a hung step, a killed process): a stack tries again, a few times."""


class Interrupted(YuanError):
    """The user or the system asked the work to stop (Ctrl-C, SIGTERM); it can be resumed."""

    exit_code: ClassVar[int] = 130


def one_line(error: BaseException) -> str:
    """Returns an error's text folded to one line, led by its class name where it is not one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, YuanError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
