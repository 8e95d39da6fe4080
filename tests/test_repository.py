"""
The repository itself keeps its promises: what is written where, that nothing is left over, that the schema is what it says.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app.cli import cli
from app.store import queries

ROOT = Path(__file__).parents[1]
SOURCE = sorted(path for folder in ("app", "jobs", "sandbox") for path in (ROOT / folder).rglob("*.py"))
FUNCTION_LINES_MAX = 70
TABLES = {"window_operators", "band_operators"}  # lists of declarations: they have no steps to follow
PROCRASTINATES_OWN = "20261128000008_jobs.sql"  # its schema as it publishes it, where 'todo' is a job's state

# Short statements that stand in code, each with its reason. Everything else is a named query in sql/queries.
STATEMENTS_IN_CODE = {
    "listen": "LISTEN takes no parameter and belongs to the connection that hears it",
    "set_config": "session and transaction settings, next to the code that depends on them",
    "pg_notify": "a hint without content",
    "copy (": "COPY takes no parameters: psycopg composes its literals",
    "supabase_migrations": "the migration runner keeps its own books, before there is a schema",
    "pg_advisory_xact_lock": "the migration runner's lock",
    "to_regclass": "the migration runner asks whether this is Supabase",
}


def _tracked() -> list[Path]:
    """Every text file under version control, or lying there to be added."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("needs git and its working tree")
    return [
        path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file() and _is_text(path)
    ]


def _is_text(path: Path) -> bool:
    return b"\0" not in path.read_bytes()[:1024]


def _found(pattern: str, paths: list[Path], flags: int = 0) -> list[str]:
    """``file:line: text`` of every line that matches."""
    compiled = re.compile(pattern, flags)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if compiled.search(line)
    ]


# -- text ------------------------------------------------------------------------------------------------------------------


def test_nothing_is_left_for_later():
    paths = [
        path
        for path in _tracked()
        if path.name not in (Path(__file__).name, PROCRASTINATES_OWN, "pyproject.toml")
    ]
    assert _found(r"\b(TODO|FIXME|XXX|HACK)\b", paths) == []
    assert _found(r"\bxfail\b|mark\.skip\b", [path for path in paths if path.suffix == ".py"]) == []


def test_lock_files_name_no_host():
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert len(locks) == 2
    assert _found(r"https?://|--(extra-)?index-url|--find-links", locks) == []
    for lock in locks:
        pins = re.findall(r"^([a-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(pins) > 20, lock
        assert lock.read_text(encoding="utf-8").count("--hash=sha256:") >= len(pins), lock


def test_no_file_knows_the_machine_it_was_written_on():
    own = re.escape(str(ROOT))
    homes = r"(?<![\w.])/(home|Users|mnt|work)/[a-z]"
    assert _found(rf"{own}(?![\w-])|{homes}", [p for p in _tracked() if p != Path(__file__)]) == []


def test_every_function_fits_in_a_glance():
    long = []
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX and node.name not in TABLES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert long == []


# -- queries ---------------------------------------------------------------------------------------------------------------

QUERY_FILES = sorted((ROOT / "sql" / "queries").glob("*.sql"))


@pytest.mark.parametrize("file", QUERY_FILES, ids=lambda file: file.stem)
def test_every_query_has_a_name_of_its_own_and_a_purpose(file):
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"^-- ([a-z0-9_]+) --$", text, re.MULTILINE)
    assert text.startswith("-- "), "text before the first name would belong to no query"
    assert names
    assert len(names) == len(set(names))
    for name, query in queries.load(file.stem).items():
        purpose = query.splitlines()[0]
        assert re.fullmatch(r"-- .{10,}", purpose), f"{name}: {purpose}"
        assert query.rstrip().endswith(";"), name


def test_every_query_is_used():
    mentioned = {
        node.value
        for path in SOURCE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    tables = {file.stem for file in QUERY_FILES}
    assert tables <= mentioned, "a file of queries that nobody loads"
    unused = [
        f"{file.stem}.{name}"
        for file in QUERY_FILES
        for name in queries.load(file.stem)
        if name not in mentioned
    ]
    assert unused == []


def test_sql_is_written_in_sql_files():
    statement = re.compile(
        r"\s*(with \w+ as|select |insert into |update \w|delete from |listen |copy |create |alter |drop |set )",
        re.IGNORECASE,
    )
    foreign = []
    for path in SOURCE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        sentences = {
            id(child) for node in ast.walk(tree) if isinstance(node, ast.Raise) for child in ast.walk(node)
        }
        for node in ast.walk(tree):
            text = _sql_argument(node)
            if text is None or id(node) in sentences or not statement.match(text):
                continue
            if not any(known in text.lower() for known in STATEMENTS_IN_CODE):
                foreign.append(f"{path.relative_to(ROOT)}:{node.lineno}: {' '.join(text.split())[:100]}")
    assert foreign == []


def _sql_argument(node: ast.AST) -> str | None:
    """The text handed to ``execute``, ``copy`` or ``SQL`` as a literal."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if name not in ("execute", "executemany", "copy", "SQL"):
        return None
    first = node.args[0]
    parts = first.values if isinstance(first, ast.JoinedStr) else [first]
    return (
        "".join(str(p.value) for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str))
        or None
    )


# -- the migrated database -------------------------------------------------------------------------------------------------


def _column(connection, query):
    return [row[0] for row in connection.execute(query).fetchall()]


def test_every_table_and_view_says_what_it_is(connection):
    assert (
        _column(
            connection,
            """
            select c.oid::regclass::text from pg_class c
             where c.relnamespace::regnamespace::text in ('public', 'vyx') and c.relkind in ('r', 'p', 'v', 'm')
               and not c.relispartition and obj_description(c.oid, 'pg_class') is null
            """,
        )
        == []
    )


def test_every_table_is_closed_by_row_level_security(connection):
    connection.execute(
        "select vyx.keep_signal_partition('2024-05-01T00:00:00Z')"
    )  # partitions do not inherit it
    assert (
        _column(
            connection,
            """
            select c.oid::regclass::text from pg_class c
             where c.relnamespace::regnamespace::text in ('public', 'vyx') and c.relkind in ('r', 'p') and not c.relrowsecurity
            """,
        )
        == []
    )


def test_every_view_reads_with_the_rights_of_its_reader(connection):
    assert (
        _column(
            connection,
            """
            select c.oid::regclass::text from pg_class c
             where c.relnamespace::regnamespace::text in ('public', 'vyx') and c.relkind = 'v'
               and not coalesce('security_invoker=true' = any (c.reloptions), false)
            """,
        )
        == []
    )


# A foreign key without an index makes each delete on the other side read this whole table.
KEYS_WITHOUT_INDEX = {
    "candles_symbol_id_fkey": "pairs are never deleted (vyx.symbols), and a third index on the largest table costs each slot",
}


def test_every_foreign_key_has_an_index(connection):
    lacking = _column(
        connection,
        """
        select k.conname from pg_constraint k
         where k.contype = 'f' and k.conparentid = 0 and k.connamespace::regnamespace::text in ('public', 'vyx')
           and not exists (
             select from pg_index i
              where i.indrelid = k.conrelid and i.indkey[0] = k.conkey[1]
                and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) ~ '^\\(\\w+ IS NOT NULL\\)$'))
        """,
    )
    assert sorted(lacking) == sorted(KEYS_WITHOUT_INDEX)


def test_every_function_fixes_its_search_path(connection):
    """Else whoever calls it chooses what its names mean."""
    assert (
        _column(
            connection,
            """
            select p.oid::regprocedure::text from pg_proc p
             where p.pronamespace::regnamespace::text in ('public', 'vyx')
               and not coalesce(exists (select from unnest(p.proconfig) c where c like 'search_path=%'), false)
            """,
        )
        == []
    )


# -- documents -------------------------------------------------------------------------------------------------------------

_DOCUMENT = re.compile(
    r"(?<![\w./])((?:docs|bench|tests|sql|app|jobs|sandbox)/[\w/.-]+\.(?:md|py|sql)|[A-Z]+\.md)\b"
)
_SECTION = re.compile(r"(docs/[\w/-]+\.md)`*,\s+\*([^*]+)\*")


def test_every_document_and_file_that_is_cited_exists():
    """In code, SQL and documents: what a reader is sent to is in the repository."""
    paths = _tracked()
    known = "\n".join(f"/{path.relative_to(ROOT)}" for path in paths) + "\n"
    missing = [
        f"{path.relative_to(ROOT)}: {cited}"
        for path in paths
        if path.suffix in {".py", ".sql", ".md"} and path.name != "CHANGELOG.md"
        for cited in _DOCUMENT.findall(path.read_text(encoding="utf-8"))
        if f"/{cited}\n" not in known
    ]
    assert missing == []


def test_every_section_that_is_cited_exists():
    """A document followed by a section in asterisks: the section is one of its headings."""
    missing = [
        f"{path.relative_to(ROOT)}: {document}, {section}"
        for path in _tracked()
        if path.suffix in {".py", ".sql", ".md"}
        for document, section in _SECTION.findall(path.read_text(encoding="utf-8"))
        if f"## {section}\n" not in (ROOT / document).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_every_metric_of_the_contract_is_counted():
    named = re.findall(r"`(\w+?)(?:_total)?(?:\{\w+\})?`", _section("docs/contract.md", "Metrics"))
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE)
    assert named
    assert [name for name in named if f'"{name}' not in source] == []


def _section(document: str, heading: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    return text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


# -- generated and described -----------------------------------------------------------------------------------------------


def test_the_schema_file_is_current():
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "schema"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "sql" / "schema.sql").read_text(encoding="utf-8"), (
        "vyx schema > sql/schema.sql"
    )


def test_the_image_holds_every_file_the_service_reads(tmp_path):
    """What the Dockerfile copies is enough to run: its folders, elsewhere, without the rest of the repository."""
    copied = re.findall(
        r"^COPY (\S+) /srv/vyx/(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source, target in copied:
        assert f"!{source}" in allowed
        shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
    program = "import app.web, app.worker, app.up, jobs.tasks; from app import dev_data; from app.store import migrations; print(len(dev_data.DEMO_FILTERS), len(migrations.load_migrations()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(int(count) > 0 for count in done.stdout.split())


def test_fly_runs_commands_that_exist_and_drains_before_it_kills():
    fly = tomllib.loads((ROOT / "fly.toml").read_text(encoding="utf-8"))
    commands = {command.name or command.callback.__name__ for command in cli.registered_commands}
    assert {line.split()[0] for line in fly["processes"].values()} == {"web", "worker"}
    assert commands >= {"web", "worker", fly["deploy"]["release_command"]}
    assert fly["kill_signal"] == "SIGTERM"
    assert float(fly["env"]["VYX_DRAIN_S"]) + 5 < fly["kill_timeout"]
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"VYX_PORT={fly['http_service']['internal_port']}" in image
    named = {
        name for part in ("metrics", "vm", "restart") for table in fly[part] for name in table["processes"]
    }
    assert named == fly["processes"].keys()


BENCHES = sorted(p.name for p in (ROOT / "bench").glob("*.py") if "__main__" in p.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BENCHES)
def test_every_benchmark_is_described_and_explains_itself(name):
    assert f"bench/{name}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, f"bench/{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
