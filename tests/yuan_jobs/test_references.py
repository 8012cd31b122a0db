"""Names of artifacts, and help where there is none of a name."""

import pytest

from yuan_events import InputError
from yuan_jobs.references import ArtifactKind, Reference, check_name, not_found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", Reference("demo")),
        ("demo@latest", Reference("demo")),
        ("demo@12", Reference("demo", version=12)),
        ("model/demo", Reference("demo", ArtifactKind.model)),
        ("tokenizer/a.b_c-1@3", Reference("a.b_c-1", ArtifactKind.tokenizer, 3)),
    ],
)
def test_a_reference_is_kind_name_and_version(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("modle/demo", "did you mean model"),
        ("demo@", "a version must follow"),
        ("demo@0", "not a number from 1"),
        ("demo@-1", "not a number from 1"),
        ("demo@²", "not a number from 1"),
        ("demo@newest", "not a number from 1"),
        ("demo@99999999999999999999999", "'99999999999999999999999' is not a number from 1 to 999999999"),
        ("demo@" + "1" * 5000, "not a number from 1"),
        ("x" * 5000, "cannot be a name"),
        ("", "cannot be a name"),
        ("../demo", "no kind '..'"),
        ("model/", "cannot be a name"),
        ("model/..", "cannot be a name"),
        ("model/a/b", "no kind 'model/a'"),
        ("a b", "cannot be a name"),
        ("演示", "cannot be a name"),
        ("x" * 101, "cannot be a name"),
    ],
)
def test_what_is_no_reference_is_said_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(InputError) as error:
        Reference.parse(text)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_reference_of_another_kind_than_wanted_is_refused() -> None:
    with pytest.raises(InputError, match="a model is wanted here, not a dataset"):
        Reference.parse("dataset/demo", "model")
    assert Reference.parse("demo", "model").kind == ArtifactKind.model


def test_a_name_never_leads_out_of_the_store() -> None:
    for name in ("..", ".", "/etc", "a/../b", ".hidden", "-x", "a\n", "a\0"):
        with pytest.raises(InputError):
            check_name(name)


PUBLISHED = [("model", "demo", 1), ("model", "demo", 2), ("model", "demo", 4), ("dataset", "stdlib", 1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model/dmo", "artifact model/dmo does not exist; did you mean demo? `yuan artifacts model` lists them"),
        ("model/demo@7", "artifact model/demo@7 does not exist; there are versions 1-2, 4; `yuan artifacts model`"),
        ("dataset/demo", "but a model of that name does"),
        ("tokenizer/zzz", "no tokenizer has been made in this home yet"),
        ("model/zzz", "`yuan artifacts model` lists those that do"),
        ("dataset/stdilb", "did you mean stdlib?"),
        ("dataset/std", "did you mean stdlib?"),
        ("model/nome", "does not exist; `yuan artifacts model` lists those that do"),
    ],
)
def test_a_missing_artifact_is_answered_with_what_there_is(text: str, expected: str) -> None:
    assert expected in str(not_found(Reference.parse(text), PUBLISHED))


def test_versions_of_several_kinds_are_told_once() -> None:
    several = [("model", "tiny", 1), ("dataset", "tiny", 1), ("tokenizer", "tiny", 1)]
    assert "; there is version 1; " in str(not_found(Reference.parse("tiny@5"), several))
