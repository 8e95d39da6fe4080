from __future__ import annotations

import re
from collections import Counter

import psycopg
import pytest

from app.store import migrations


def test_migrating_twice_applies_nothing_the_second_time(dsn):
    assert migrations.migrate(dsn) == []


def test_an_edited_migration_is_refused(dsn, tmp_path):
    for migration in migrations.load_migrations():
        (tmp_path / f"{migration.version}_{migration.name}.sql").write_text(migration.sql + "\n-- edited\n")
    with pytest.raises(migrations.MigrationFailed, match="changed after it was applied"):
        migrations.migrate(dsn, tmp_path)


def test_a_failing_migration_names_its_file_and_line_and_leaves_nothing(dsn, tmp_path):
    (tmp_path / "29990101000000_broken.sql").write_text("create table t (a int);\nselect nonsense from t;\n")
    with pytest.raises(migrations.MigrationFailed, match=r"29990101000000_broken\.sql:2: "):
        migrations.migrate(dsn, tmp_path)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select to_regclass('public.t')").fetchone() == (None,)


def test_a_database_of_before_the_first_release_says_what_to_do(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "insert into supabase_migrations.schema_migrations (version, name) values ('20261122000013', 'roster')"
        )
    with pytest.raises(migrations.MigrationFailed, match=r"empty database .* remove the data directory"):
        migrations.migrate(dsn)


def test_each_object_is_defined_once():
    """
    No migration replaces or alters what another one defined: before the first release each is mended in its place.
    """
    own = [
        m for m in migrations.load_migrations() if m.name != "jobs"
    ]  # procrastinate's is as it publishes it
    defined = re.compile(
        r"^create (?:or replace )?(?:unlogged )?(?:function|view|table|type|sequence) ([a-z_.]+)",
        re.MULTILINE,
    )
    names = Counter(name for m in own for name in defined.findall(m.sql))

    assert [name for name, count in names.items() if count > 1] == []
    assert [m.name for m in own if re.search(r"or replace|add column|alter column", m.sql)] == []
