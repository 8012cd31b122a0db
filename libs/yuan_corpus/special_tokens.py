"""The special tokens of the Yuan family: their strings, and which ids they have in a tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from yuan_corpus.errors import TokenizerError
from yuan_corpus.files import write_text_durably

EOD = "<eod>"
SEP = "<sep>"
PAD = "<pad>"
FIM_PREFIX = "<FIM_PREFIX>"
FIM_MIDDLE = "<FIM_MIDDLE>"
FIM_SUFFIX = "<FIM_SUFFIX>"

ADDED_TOKENS = (
    SEP,
    PAD,
    "<mask>",
    "<predict>",
    FIM_SUFFIX,
    FIM_PREFIX,
    FIM_MIDDLE,
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
)
"""The 15 strings that the original adds to its tokenizer, in the order in which those it lacks get ids."""

SPECIAL_TOKENS = (EOD, *ADDED_TOKENS)
"""What every tokenizer of ours reserves."""

FILE_NAME = "special_tokens.json"


def to_json(ids: Mapping[str, int]) -> str:
    """Returns the content of `special_tokens.json`: string -> id, in the order of ids."""
    ordered = dict(sorted(ids.items(), key=lambda item: item[1]))
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def write_special_tokens(folder: Path, ids: Mapping[str, int]) -> None:
    """Writes `special_tokens.json`."""
    write_text_durably(folder / FILE_NAME, to_json(ids))


def read_special_tokens(path: Path) -> dict[str, int]:
    """Reads what `write_special_tokens` wrote.

    Raises:
        TokenizerError: if it is not a table of strings and ids with `<eod>`.
    """
    try:
        table = cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON ({error}); train the tokenizer anew") from None
    ids: dict[str, int] = {}
    for string, token in table.items() if type(table) is dict else [("", None)]:
        if not string or type(token) is not int or token < 0:
            raise TokenizerError(f'{path}: must be a table from strings to ids, as in {{"{EOD}": 1}}')
        ids[string] = token
    if EOD not in ids:
        raise TokenizerError(f"{path}: {EOD} is missing; every tokenizer must have it to end documents")
    if len(set(ids.values())) < len(ids):
        raise TokenizerError(f"{path}: two strings have one id")
    return ids
