"""`yuan token` and `yuan audit`, called as functions of a home of their own."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from yuan_cli.app import run
from yuan_events import InputError
from yuan_manifest.schema import Role
from yuan_rpc import Callers, Security, Unauthenticated
from yuan_rpc.security import bearer, read_tokens

Yuan = Callable[..., tuple[str, str]]


@pytest.fixture
def yuan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Yuan:
    """Runs a command and returns what it says on stdout and on stderr."""
    monkeypatch.setenv("YUAN_HOME", str(tmp_path))
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)

    def call(*arguments: str) -> tuple[str, str]:
        assert run(arguments) == 0
        said = capsys.readouterr()
        return said.out, said.err

    return call


def callers(home: Path) -> Callers:
    return Callers("data", Security(home / "token", home / "tokens.json"))


def test_a_token_is_printed_alone_and_lets_its_holder_in(yuan: Yuan, tmp_path: Path) -> None:
    yuan("token", "rotate")
    out, err = yuan("token", "new", "alice", "--role", "operator", "--expires", "90d", "--tokens-per-minute", "7")
    found = callers(tmp_path).find(bearer(out.strip()))
    assert (found.name, found.role, found.limits.tokens_per_minute) == ("alice", Role.operator, 7)
    assert "the only time that it is shown" in err
    assert out.strip() not in err
    listed, _ = yuan("token", "list")
    assert "alice" in listed
    (row,) = json.loads(yuan("token", "list", "--json")[0])
    assert datetime.fromisoformat(row["expires"]) - datetime.now(UTC) > timedelta(days=89)
    assert out.strip() not in listed + json.dumps(row) + yuan("audit")[0]


def test_a_next_token_has_the_role_of_the_last_and_may_end_it(yuan: Yuan, tmp_path: Path) -> None:
    yuan("token", "rotate")
    old = yuan("token", "new", "alice", "--role", "operator")[0].strip()
    new = json.loads(yuan("token", "new", "alice", "--others-end", "2020-01-01", "--json")[0])
    assert new["role"] == "operator"
    assert callers(tmp_path).find(bearer(new["token"])).name == "alice"
    with pytest.raises(Unauthenticated, match="has expired"):
        callers(tmp_path).find(bearer(old))
    assert "(over)" in yuan("token", "list")[0]


def test_what_is_taken_back_holds_no_more(yuan: Yuan, tmp_path: Path) -> None:
    yuan("token", "rotate")
    token = yuan("token", "new", "alice")[0].strip()
    assert "holds no more" in yuan("token", "revoke", "alice")[0]
    with pytest.raises(Unauthenticated, match="does not know"):
        callers(tmp_path).find(bearer(token))


def test_the_stacks_own_token_is_exchanged_in_two_steps(yuan: Yuan, tmp_path: Path) -> None:
    yuan("token", "rotate")
    before = read_tokens(tmp_path / "token")
    yuan("token", "rotate")
    both = read_tokens(tmp_path / "token")
    assert both[1:] == before
    assert "hold no more" in yuan("token", "rotate", "--finish")[0]
    assert read_tokens(tmp_path / "token") == both[:1]
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("token", "new", "x y"), "cannot be a name"),
        (("token", "new", "owner"), "cannot be a name"),
        (("token", "new", "x", "--role", "king"), "--role: expected one of viewer, operator, admin, found 'king'"),
        (("token", "new", "x", "--expires", "soon"), "--expires: expected 12h, 90d or a day"),
        (("token", "new", "x", "--expires", "9999999d"), "--expires: expected 12h, 90d or a day"),
        (("token", "new", "x", "--expires", "2020-01-01"), "is over"),
        (("token", "revoke", "nobody"), "no token of 'nobody'; there are: none"),
        (("token", "rotate", "--finish"), "no token file"),
        (("token", "frobnicate"), "no command 'frobnicate'; did you mean rotate?"),
        (("audit", "--since", "3x"), "--since: expected"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(
    yuan: Yuan, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        yuan(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokens.json").exists()
    assert not (tmp_path / "token").exists()


def test_the_audit_log_is_shown_and_filtered(yuan: Yuan) -> None:
    assert "nothing of that" in yuan("audit")[1]
    yuan("token", "new", "alice")
    yuan("token", "new", "bob", "--role", "operator")
    yuan("token", "revoke", "alice")
    everything, _ = yuan("audit")
    assert [line.count("os:") for line in everything.splitlines()] == [0, 1, 1, 1]

    def count(*options: str) -> int:
        return len(yuan("audit", "--json", *options)[0].splitlines())

    assert count("--object", "alice") == 2
    assert count("--method", "revoke") == 1
    assert count("-n", "1") == 1
    assert count("--since", "1h") == 3
    assert count("--since", "2999-01-01") == count("--refused") == count("--subject", "alice") == 0
    (row,) = [json.loads(line) for line in yuan("audit", "--json", "--object", "bob")[0].splitlines()]
    assert (row["object"], row["outcome"]) == ({"name": "bob", "role": "operator"}, "OK")
