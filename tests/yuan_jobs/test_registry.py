"""The registry decides who runs a job and what is published; on a real SQLite file and a real PostgreSQL."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import postgresql
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from yuan_cli.completion import complete_artifact, complete_job
from yuan_events import InputError
from yuan_jobs import migrations
from yuan_jobs.database import upgrade
from yuan_jobs.models import Base
from yuan_jobs.records import NewArtifact, NewJob
from yuan_jobs.registry import Registry, StaleAttemptError
from yuan_jobs.states import Desired, JobState

JOB = NewJob("tokenizer", "demo", "i" * 64, {"kind": "tokenizer"}, {"text": "abc"}, {"nodes": {"count": 1}})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}"


def artifact(path: str, name: str = "demo", inputs: dict[str, int] | None = None) -> NewArtifact:
    return NewArtifact("tokenizer", name, path, "d" * 64, 12, inputs or {})


def publish(registry: Registry, path: str, name: str = "demo", inputs: dict[str, int] | None = None):
    claim = registry.claim(JOB, afresh=True)
    return registry.publish(claim, artifact(path, name, inputs), {})


def test_a_new_job_is_running_in_its_first_attempt(registry: Registry) -> None:
    claim = registry.claim(JOB)
    job = registry.job(claim.job_id)
    assert job is not None
    assert (job.state, job.attempt, claim.attempt, claim.before) == (JobState.RUNNING, 1, 1, None)
    assert (job.recipe, job.inputs, job.topology) == (JOB.recipe, JOB.inputs, JOB.topology)
    assert job.created.tzinfo is not None


def test_ids_begin_with_the_name_and_sort_by_time(registry: Registry) -> None:
    ids = [registry.claim(JOB, afresh=True).job_id for _ in range(50)]
    assert all(job_id.startswith("demo-") for job_id in ids)
    assert len(set(ids)) == 50
    assert [i[:14] for i in ids] == sorted(i[:14] for i in ids)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_did_not_succeed_goes_on_as_its_next_attempt(registry: Registry, state: JobState) -> None:
    first = registry.claim(JOB)
    registry.finish(first, state, reason="because")
    second = registry.claim(JOB)
    assert (second.job_id, second.attempt) == (first.job_id, 2)
    assert second.before is not None
    assert (second.before.state, second.before.reason) == (state, "because")


def test_a_job_left_running_is_taken_over_and_its_old_attempt_can_write_no_more(registry: Registry) -> None:
    dead = registry.claim(JOB)
    alive = registry.claim(JOB)
    assert (alive.job_id, alive.attempt) == (dead.job_id, 2)
    with pytest.raises(StaleAttemptError):
        registry.publish(dead, artifact("a"), {})
    with pytest.raises(StaleAttemptError):
        registry.finish(dead, JobState.FAILED)
    assert registry.artifacts() == []
    assert registry.publish(alive, artifact("b"), {}).version == 1


def test_a_job_that_succeeded_is_final(registry: Registry) -> None:
    claim = registry.claim(JOB)
    registry.publish(claim, artifact("a"), {"loss": 1.5})
    with pytest.raises(StaleAttemptError):
        registry.finish(claim, JobState.FAILED)
    job = registry.job(claim.job_id)
    assert job is not None
    assert (job.state, job.result) == (JobState.SUCCEEDED, {"loss": 1.5})
    assert registry.claim(JOB).job_id != claim.job_id


def test_versions_count_up_for_each_name(registry: Registry) -> None:
    assert [publish(registry, p, n).version for p, n in [("a", "x"), ("b", "x"), ("c", "y")]] == [1, 2, 1]
    newest = registry.artifact("tokenizer", "x")
    assert newest is not None
    assert newest.version == 2


def test_lineage_is_known_in_both_directions(registry: Registry) -> None:
    source = publish(registry, "a", "source")
    made = publish(registry, "b", "made", {"tokenizer": source.id, "datasets[0].name": source.id})
    assert registry.inputs_of(made.id) == {"tokenizer": source, "datasets[0].name": source}
    assert registry.made_from(source.id) == [made]


def test_lineage_to_an_artifact_that_is_not_there_publishes_nothing(registry: Registry) -> None:
    claim = registry.claim(JOB)
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        registry.publish(claim, artifact("a", inputs={"tokenizer": 77}), {})
    assert registry.artifacts() == []
    job = registry.job(claim.job_id)
    assert job is not None
    assert job.state == JobState.RUNNING


PUBLISHER = """
import sys
from yuan_jobs.records import NewArtifact, NewJob
from yuan_jobs.registry import Registry
registry = Registry.open(sys.argv[1])
for number in range(5):
    claim = registry.claim(NewJob("tokenizer", "demo", "i" * 64, {}, {}, {}), afresh=True)
    path = f"{sys.argv[2]}/{number}"
    print(registry.publish(claim, NewArtifact("tokenizer", "demo", path, "d", 1, {}), {}).version)
"""


def test_processes_that_open_a_new_registry_and_publish_at_once_get_versions_of_their_own(new_url: str) -> None:
    command = [sys.executable, "-c", PUBLISHER, new_url]
    processes = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]
    versions = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(versions) == list(range(1, 21))


def test_migrations_make_exactly_the_tables_of_the_models(registry: Registry, registry_url: str) -> None:
    with create_engine(registry_url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_list_of_revisions_is_that_of_the_migration_files() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == migrations.REVISIONS
    assert scripts.get_heads() == [migrations.HEAD]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def new_url(request: pytest.FixtureRequest, url: str) -> str:
    """A database without a table."""
    if request.param == "sqlite":
        return url
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    return server.url(server.new_database())


def test_the_shell_completes_what_a_registry_has_and_makes_none(
    registry: Registry, registry_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"version: 1\ncluster:\n  home: {tmp_path}\n  registry: '{registry_url}'\n")
    monkeypatch.setenv("YUAN_CLUSTER", str(file))
    assert complete_artifact("tok") == []
    publish(registry, "a")
    publish(registry, "b")
    assert complete_artifact("tok") == ["tokenizer/demo"]
    assert complete_artifact("tokenizer/demo@") == ["tokenizer/demo@1", "tokenizer/demo@2"]
    assert len(complete_job("demo")) == 2


def test_the_shell_completes_nothing_where_there_is_no_table_and_makes_none(
    new_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_engine(new_url).connect().close()
    file = tmp_path / "cluster.yaml"
    file.write_text(f"version: 1\ncluster:\n  home: {tmp_path}\n  registry: '{new_url}'\n")
    monkeypatch.setenv("YUAN_CLUSTER", str(file))
    assert complete_artifact("tok") == complete_job("demo") == []
    assert inspect(create_engine(new_url)).get_table_names() == []


def test_a_registry_of_a_newer_program_is_refused_in_one_line(url: str, tmp_path: Path) -> None:
    Registry.open(url).close()
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match=r"made by a newer Yuan Stack \(schema 9999"):
        Registry.open(url)


def test_a_file_that_is_no_database_is_refused_in_one_line(url: str, tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text(
        "this is text, and quite a lot of it, that SQLite cannot take for a database" * 9
    )
    with pytest.raises(InputError, match=r"registry .*registry\.db: file is not a database"):
        Registry.open(url)


def test_a_database_of_something_else_is_left_alone(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(InputError, match="a database of something else"):
        Registry.open(url)


@pytest.mark.parametrize("url", ["mysql://u:secret@h/yuan", "postgresql://u:secret@h/yuan", "no url: secret"])
def test_other_databases_are_refused_without_telling_passwords(url: str) -> None:
    with pytest.raises(InputError, match="expected sqlite:///FILE or postgresql\\+psycopg://") as error:
        Registry.open(url)
    assert "secret" not in str(error.value)


def test_a_server_that_does_not_answer_is_one_line_without_the_password() -> None:
    with pytest.raises(InputError, match=r"registry postgresql\+psycopg://u:\*\*\*@127\.0\.0\.1:1/yuan: ") as error:
        Registry.open("postgresql+psycopg://u:secret@127.0.0.1:1/yuan")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_database_without_an_encoding_keeps_text_as_text(postgresql_server: postgresql.Server) -> None:
    registry = Registry.open(postgresql_server.url(postgresql_server.new_database("SQL_ASCII")))
    claim = registry.claim(NewJob("tokenizer", "源", "i" * 64, {"kind": "tokenizer"}, {"text": "源2.0"}, {}))
    job = registry.job(claim.job_id)
    registry.close()
    assert job is not None
    assert (job.name, job.inputs, job.state) == ("源", {"text": "源2.0"}, JobState.RUNNING)


def test_jobs_of_the_first_schema_are_kept(url: str) -> None:
    with create_engine(url).begin() as connection:
        upgrade(connection, "0001")
        connection.exec_driver_sql(
            "INSERT INTO jobs (id, kind, name, identity, recipe, inputs, topology, state, attempt, created) "
            "VALUES ('a', 'tokenizer', 'n', 'i', '{}', '{}', '{}', 'SUCCEEDED', 1, '2026-01-01 00:00:00')"
        )
        connection.exec_driver_sql(
            "INSERT INTO artifacts (kind, name, version, path, digest, size_bytes, job_id, created) "
            "VALUES ('tokenizer', 'demo', 3, 'p', 'd', 1, 'a', '2026-01-01 00:00:00')"
        )
    registry = Registry.open(url)
    job = registry.job("a")
    registry.close()
    assert job is not None
    assert (job.artifact, job.desired, job.force, job.queue) == ("tokenizer/demo@3", Desired.RUN, False, None)


def test_the_registry_writes_ahead_so_that_readers_and_a_writer_do_not_wait_for_each_other(
    url: str, tmp_path: Path
) -> None:
    registry = Registry.open(url)
    with sqlite3.connect(tmp_path / "registry.db", isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert registry.artifacts() == []
        writer.execute("ROLLBACK")
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
