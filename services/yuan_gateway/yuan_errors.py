"""Answers of `PUT /yuan`, in the original's form: errors have status 200 there, and `flag` says that they are some."""

from typing import Any

YUAN_PATH = "/yuan"

_BAD_INPUT, _GENERATION = 1, 2


def yuan_success(output: list[dict[str, str]]) -> dict[str, Any]:
    """Returns the body of an answer."""
    return {
        "flag": True,
        "errCode": "0",
        "errMessage": "success",
        "exceptionMsg": "",
        "resData": {"output": output},
    }


def yuan_failure(reason: str, *, bad_input: bool) -> dict[str, Any]:
    """Returns the body of an error.

    Args:
        reason: in one line.
        bad_input: whether the request is to blame.
    """
    return {
        "flag": False,
        "errCode": _BAD_INPUT if bad_input else _GENERATION,
        "errMessage": "",
        "successMessage": "",
        "exceptionMsg": reason,
        "resData": {},
    }
