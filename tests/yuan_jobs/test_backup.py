"""A registry comes back from its backup as it was, on either database, in whatever schema it was written."""

import gzip
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import postgresql
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import JSON as JSON_TYPE
from sqlalchemy import Boolean, DateTime, Float, Integer, MetaData, create_engine, insert, select

from yuan_cli.upgrading import upgrade_home
from yuan_events import InputError, WorkFailed
from yuan_jobs import backup as backup_module
from yuan_jobs import migrations
from yuan_jobs.backup import LEFT_OUT, back_up, read_backup, restore
from yuan_jobs.claims import register_worker
from yuan_jobs.database import Database, look_at, upgrade
from yuan_jobs.models import Base
from yuan_jobs.records import NewArtifact, NewJob
from yuan_jobs.registry import Registry
from yuan_jobs.worker_identity import this_process

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

NewUrl = Callable[[str], str]


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> NewUrl:
    """Gives the URL of a new database of a kind, without a table."""
    made = iter(range(100))

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / f'{next(made)}.db'}"
        server: postgresql.Server = request.getfixturevalue("postgresql_server")
        return server.url(server.new_database())

    return make


def fill(url: str, revision: str) -> None:
    """Makes a registry of a schema with two rows in every table, and a value in every column of the first."""
    database = Database.open(url, migrate=False)
    with database.writing() as session:
        connection = session.connection()
        upgrade(connection, revision)
        tables = MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name == "alembic_version":
                continue
            for number in (1, 2):
                row = {c.name: value_of(c, number) for c in table.columns if number == 1 or not c.nullable}
                connection.execute(insert(table), row)
    database.close()


def value_of(column: Any, number: int) -> object:
    # Rows refer to those of the same number; enumerations have to be real ones.
    words = {"state": "SUCCEEDED", "desired": "RUN", "outcome": "SUCCEEDED", "kind": "tokenizer"}
    if column.name in words:
        return words[column.name]
    if isinstance(column.type, DateTime):
        return MOMENT + timedelta(days=number)
    if isinstance(column.type, JSON_TYPE):
        return {"源": [number, None, 1.5, {"deep": True}]}
    if isinstance(column.type, Boolean):
        return number == 1
    if isinstance(column.type, Integer | Float):
        return number
    return f"值-{number}"


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Returns all rows of a registry of this program's schema, as the program sees them."""
    database = Database.open(url)
    try:
        with database.reading() as session:
            return {
                table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
                for table in Base.metadata.sorted_tables
                if table.name not in LEFT_OUT
            }
    finally:
        database.close()


def is_of_this_schema(url: str) -> bool:
    engine = create_engine(url)
    with engine.connect() as connection:
        same = compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    return same


@pytest.mark.parametrize("revision", migrations.REVISIONS)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("sqlite", "sqlite"),
        pytest.param("sqlite", "postgresql", marks=pytest.mark.slow),
        pytest.param("postgresql", "sqlite", marks=pytest.mark.slow),
        pytest.param("postgresql", "postgresql", marks=pytest.mark.slow),
    ],
)
def test_a_backup_of_any_schema_becomes_what_migrating_its_registry_gives(
    new_url: NewUrl, tmp_path: Path, source: str, target: str, revision: str
) -> None:
    before, after = new_url(source), new_url(target)
    fill(before, revision)
    written = back_up(before, tmp_path / "file")
    assert written.revision == revision
    assert {count for name, count in written.rows.items()} == {2}
    assert read_backup(tmp_path / "file") == written
    assert restore(after, tmp_path / "file") == written
    assert is_of_this_schema(after)
    migrated = content(before)
    assert content(after) == migrated
    assert len(migrated["jobs"]) == len(migrated["artifacts"]) == len(migrated["artifact_inputs"]) == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("revision", migrations.REVISIONS)
def test_registries_of_every_schema_are_brought_to_this_one_with_their_rows(
    new_url: NewUrl, kind: str, revision: str
) -> None:
    url = new_url(kind)
    fill(url, revision)
    rows = content(url)
    assert is_of_this_schema(url)
    jobs = rows["jobs"]
    columns = [column.name for column in Base.metadata.tables["jobs"].columns]
    first = dict(zip(columns, jobs[0], strict=True))
    assert [job[0] for job in jobs] == ["值-1", "值-2"]
    assert (first["recipe"], first["created"]) == ({"源": [1, None, 1.5, {"deep": True}]}, MOMENT + timedelta(days=1))
    assert (first["failures"], first["priority"]) == ((0, 0) if revision < "0004" else (1, 1))
    registry = Registry.open(url)
    assert [artifact.version for artifact in registry.artifacts()] == [1, 2]
    registry.close()


def used(url: str) -> str:
    """Makes a registry with a job that published something, and one that runs; returns the latter's id."""
    registry = Registry.open(url)
    job = NewJob("tokenizer", "demo", "i" * 64, {"kind": "tokenizer"}, {"text": "源"}, {})
    claim = registry.claim(job)
    registry.publish(claim, NewArtifact("tokenizer", "demo", f"path/{claim.job_id}", "d" * 64, 12, {}), {"loss": 1.5})
    register_worker(registry, this_process("data"))
    running = registry.claim(job, afresh=True)
    registry.close()
    return running.job_id


@pytest.mark.parametrize(("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_work_goes_on_in_a_home_that_moved_to_another_database(
    new_url: NewUrl, tmp_path: Path, source: str, target: str
) -> None:
    before, after = new_url(source), new_url(target)
    running = used(before)
    back_up(before, tmp_path / "file")
    restore(after, tmp_path / "file")
    registry = Registry.open(after)
    job = registry.job(running)
    assert job is not None
    claim = registry.claim(NewJob(job.kind, job.name, job.identity, job.recipe, job.inputs, {}))
    assert (claim.job_id, claim.attempt) == (running, 2)
    made = registry.publish(claim, NewArtifact("tokenizer", "demo", "another", "d" * 64, 12, {"text": 1}), {})
    registry.close()
    assert (made.id, made.version) == (2, 2)
    assert content(after)["jobs"] != content(before)["jobs"]


def test_a_registry_with_jobs_is_replaced_only_when_that_is_asked_for(registry_url: str, tmp_path: Path) -> None:
    used(registry_url)
    back_up(registry_url, tmp_path / "file")
    used(registry_url)
    now = content(registry_url)
    with pytest.raises(InputError, match=r"holds 3 jobs and 2 artifacts, .* add --force$"):
        restore(registry_url, tmp_path / "file")
    assert content(registry_url) == now
    restore(registry_url, tmp_path / "file", force=True)
    assert [len(content(registry_url)[name]) for name in ("jobs", "artifacts")] == [2, 1]
    assert is_of_this_schema(registry_url)


def test_a_restore_that_fails_half_way_changes_nothing(registry_url: str, tmp_path: Path) -> None:
    used(registry_url)
    back_up(registry_url, tmp_path / "file")
    used(registry_url)
    now = content(registry_url)
    _rewrite(tmp_path / "file", lambda lines: [line for line in lines if not line.startswith(b'["jobs"')])
    with pytest.raises(WorkFailed, match="nothing has changed"):
        restore(registry_url, tmp_path / "file", force=True)
    assert content(registry_url) == now


def test_a_backup_is_a_snapshot_that_a_writer_does_not_wait_for(
    registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(registry_url)
    real = backup_module._to_json
    once = iter([None])

    def write_meanwhile(value: object) -> object:
        if next(once, 0) is None:
            used(registry_url)
        return real(value)

    monkeypatch.setattr(backup_module, "_to_json", write_meanwhile)
    assert back_up(registry_url, tmp_path / "file").rows["artifacts"] == 1
    assert len(content(registry_url)["artifacts"]) == 2


def _rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Changes a backup's lines and makes its counts and its digest fit them again."""
    lines = change(gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:-2])
    names = [json.loads(line)[0] for line in lines[1:]]
    lines.append(json.dumps({"rows": {name: names.count(name) for name in names}}).encode() + b"\n")
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    path.write_bytes(gzip.compress(b"".join([*lines, json.dumps({"sha256": digest}).encode() + b"\n"])))


def _newer(lines: list[bytes]) -> list[bytes]:
    return [json.dumps(json.loads(lines[0]) | {"revision": "9999"}).encode() + b"\n", *lines[1:]]


def test_files_that_are_no_whole_backup_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path / 'registry.db'}", tmp_path / "file"
    used(url)
    back_up(url, file)
    whole = file.read_bytes()
    plain = gzip.decompress(whole)
    cases = {
        "cut off or changed": [
            whole[:-20],
            whole[: len(whole) // 2],
            gzip.compress(plain.replace(b"demo", b"omed", 1)),
            gzip.compress(plain[: plain.rindex(b"\n", 0, -1) + 1]),
            gzip.compress(plain + b"[]\n"),
            gzip.compress(b""),
        ],
        "is no gzip file": [b"text", b"\x00" * 100],
        "a file that `yuan backup` wrote": [gzip.compress(b'{"a": 1}\n')],
    }
    target = tmp_path / "new.db"
    for words, contents in cases.items():
        for changed in contents:
            file.write_bytes(changed)
            with pytest.raises(InputError, match=words):
                restore(f"sqlite:///{target}", file)
    with pytest.raises(InputError, match="no such file"):
        restore(f"sqlite:///{target}", tmp_path / "nowhere")
    file.write_bytes(whole)
    _rewrite(file, _newer)
    with pytest.raises(InputError, match=r"written by a newer Yuan Stack .* update Yuan Stack"):
        restore(f"sqlite:///{target}", file)
    assert not target.exists()


def test_a_damaged_sqlite_file_is_put_aside_and_replaced_when_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    url = f"sqlite:///{file}"
    used(url)
    back_up(url, tmp_path / "backup")
    file.write_bytes(b"no database " * 1000)
    with pytest.raises(InputError, match="is damaged; --force puts the file aside"):
        restore(url, tmp_path / "backup")
    restore(url, tmp_path / "backup", force=True)
    assert len(content(url)["jobs"]) == 2
    (aside,) = tmp_path.glob("registry.db.damaged-*")
    assert aside.read_bytes() == b"no database " * 1000


def test_a_backup_that_cannot_be_written_leaves_the_last_one(small_disk: Path, tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path / 'registry.db'}", small_disk / "file"
    used(url)
    back_up(url, file)
    before = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    with (small_disk / "other").open("wb", buffering=0) as other, suppress(OSError):
        while True:
            other.write(b"x" * 65536)
    with pytest.raises(WorkFailed, match="no space left on device"):
        back_up(url, file)
    assert file.read_bytes() == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["file", "other"]
    with pytest.raises(InputError, match="is no folder"):
        back_up(url, tmp_path / "no" / "file")
    with pytest.raises(InputError, match="nothing in it yet"):
        back_up(f"sqlite:///{tmp_path / 'none.db'}", file)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("revision", migrations.REVISIONS[:-1])
def test_a_home_of_every_older_version_is_upgraded_with_a_backup_of_what_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, revision: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"version: 1\ncluster: {{home: {home}}}\n")
    url = f"sqlite:///{home / 'registry.db'}"
    fill(url, revision)
    assert upgrade_home(cluster, backup=None, dry_run=True, as_json=False) == 0
    assert f"from schema {revision} to {migrations.HEAD}" in capsys.readouterr().out
    assert look_at(url).revision == revision

    assert upgrade_home(cluster, backup=None, dry_run=False, as_json=False) == 0
    assert [record.getMessage() for record in caplog.records if record.name == "yuan_jobs.database"] == [
        f"registry {home / 'registry.db'}: brought from schema {revision} to {migrations.HEAD}; "
        "older programs open it no more"
    ]
    (file,) = (home / "backups").iterdir()
    assert str(file) in capsys.readouterr().out
    assert read_backup(file).revision == revision
    assert is_of_this_schema(url)

    assert upgrade_home(cluster, backup=None, dry_run=False, as_json=False) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert list((home / "backups").iterdir()) == [file]
