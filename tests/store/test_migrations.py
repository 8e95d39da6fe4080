from __future__ import annotations

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
