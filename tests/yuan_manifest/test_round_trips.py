"""Whatever a manifest can hold is printed and given as an override so that it comes back."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_events import one_line
from yuan_manifest import ManifestError, load_job, to_yaml
from yuan_manifest.interpolation import escaped
from yuan_manifest.merging import as_override
from yuan_manifest.tildes import with_quoted_tildes
from yuan_manifest.values import KeyPath, format_path, parse_path
from yuan_manifest.yaml_source import dump_inline, dump_yaml, parse_yaml

TRICKY = ["no", "off", "null", "~", "1e-3", "09", "0x1f", "0o7", "1_000", "12:30", "2024-01-01", ".inf", "=", "<<"]
TRICKY += [
    "- a",
    "a: b",
    "#",
    "",
    " ",
    "\n",
    "\r",
    "\n a\n",
    "a\n  b\n",
    "a\\",
    "\x85",
    "\u2028",
    "\x7f",
    "\t",
    "'",
    '"',
]
TRICKY += ["${x}", "\\${x}", "\\\\${x}", "${", "%", "é", "中文", "😀", "??", "true"]
TEXT = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from([*TRICKY, "x"]), max_size=5).map("".join),
).filter(lambda text: text != "???")
relaxed = settings(deadline=None, max_examples=60)
WORD = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
FLOATS = st.floats(1e-300, 1e300)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """The tree of a generation job or of a training job, with values of every type."""
    if draw(st.booleans()):
        return {
            "version": 1,
            "kind": "generate",
            "name": draw(WORD),
            "inputs": {"model": draw(WORD), "prompts": draw(st.lists(TEXT.filter(bool), min_size=1, max_size=4))},
            "sampling": {
                "max_tokens": draw(st.integers(1, (1 << 31) - 1)),
                "temperature": draw(FLOATS),
                "stop_at_eod": draw(st.booleans()),
            },
            "outputs": {"report": draw(WORD)},
        }
    texts = st.lists(TEXT.filter(bool), min_size=1, max_size=3)
    return {
        "version": 1,
        "kind": "tokenizer",
        "name": draw(WORD),
        "topology": draw(
            st.sampled_from([{}, {"parallel": {"stages": [1, 3], "pipeline": 2}}, {"nodes": {"devices": 9}}])
        ),
        "inputs": {"text": draw(texts), "exclude": draw(texts), "documents": draw(st.sampled_from(["lines", "auto"]))},
        "tokenizer": {
            "sample_megabytes": draw(st.none() | st.floats(1e-300, (1 << 31) - 1)),
            "seed": draw(st.integers(0, (1 << 63) - 1)),
        },
        "outputs": {"tokenizer": draw(WORD)},
    }


def load_text(text: str, overrides: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(text.encode())
        return load_job(path, overrides)


@relaxed
@given(jobs())
def test_a_printed_job_loads_to_an_equal_one(tree: dict[str, Any]) -> None:
    job = load_text(dump_yaml(escaped(tree)), [])
    for section, values in tree.items():
        if isinstance(values, dict) and section != "topology":
            for key, value in values.items():
                assert getattr(getattr(job, section), key) == value
    assert load_text(to_yaml(job), []) == job


def leaves(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, key))]
    return [(path, value)]


@relaxed
@given(jobs())
def test_a_job_given_as_overrides_alone_is_the_same_job(tree: dict[str, Any]) -> None:
    written = load_text(dump_yaml(escaped(tree)), [])
    items = [as_override(path, value) for path, value in leaves(tree)]
    assert load_text("version: 1\n", items) == written


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@relaxed
@given(PLAIN)
def test_plain_values_come_back_from_yaml_on_one_line_or_on_many(value: Any) -> None:
    inline = dump_inline(value)
    assert "\n" not in inline
    assert parse_yaml(inline, "x").tree == value
    assert parse_yaml(dump_yaml(value), "x").tree == value


@relaxed
@given(st.lists(WORD.map(lambda word: word.replace(".", "")).filter(bool) | st.integers(0, 99), min_size=1).map(tuple))
def test_key_paths_come_back_from_text(path: KeyPath) -> None:
    assert parse_path(format_path(path)) == path


@relaxed
@given(st.text() | st.lists(st.sampled_from("${}~,:'\"\\ab[]"), max_size=20).map("".join))
def test_quoting_tildes_ends_and_changes_nothing_without_one(text: str) -> None:
    quoted = with_quoted_tildes(text)
    assert quoted.count("~") == text.count("~")
    if "~" not in text:
        assert quoted == text


@relaxed
@given(
    st.text()
    | st.lists(st.sampled_from([*"{}[]:,-&*!|>'\"%@#?\n \t~$", "version: 1\n", "kind: ", "a"]), max_size=25).map(
        "".join
    )
)
def test_no_text_whatever_does_more_than_fail_in_one_line(text: str) -> None:
    try:
        load_text(text.encode(errors="replace").decode(), [])
    except ManifestError as error:
        assert one_line(error) == str(error)  # noqa: PT017  that it fails at all is not the point
