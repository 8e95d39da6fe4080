from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from app.database_url import Unreadable, ports, read_address, without_passwords
from app.errors import SettingInvalid
from app.settings import read_settings


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        (
            "postgres://u:p@h:5433/d",
            {"user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "d"},
        ),
        ("postgresql+psycopg://u:p@h/d", {"user": "u", "password": "p", "host": "h", "dbname": "d"}),
        (" postgresql+asyncpg://h/d\n", {"host": "h", "dbname": "d"}),
        (
            "postgresql://u:p@h/d?pgbouncer=true&connection_limit=1&sslmode=require&schema=public",
            {"user": "u", "password": "p", "host": "h", "dbname": "d", "sslmode": "require"},
        ),
        ("postgresql://u:a%zz#b@h/d", {"user": "u", "password": "a%zz#b", "host": "h", "dbname": "d"}),
        ("postgresql://u:a?b@h/d", {"user": "u", "password": "a?b", "host": "h", "dbname": "d"}),
        ("postgresql://u:a%40b@h/d", {"user": "u", "password": "a@b", "host": "h", "dbname": "d"}),
        ("postgresql://a:1,b:2/d", {"host": "a,b", "port": "1,2", "dbname": "d"}),
        ("postgresql://[::1]:5432/d", {"host": "::1", "port": "5432", "dbname": "d"}),
        ("postgresql:///d?host=/run/a%20b", {"host": "/run/a b", "dbname": "d"}),
        ("host=h dbname=d password='p w'", {"host": "h", "dbname": "d", "password": "p w"}),
    ],
)
def test_every_usual_spelling_is_understood(written, parts):
    assert conninfo_to_dict(read_address(written)) == parts


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://u:SECRET@SECRET@h/d",
        "postgresql://u:SEC/RET@h/d",
        "u:SECRET@h/d",
        "mysql://u:SECRET@h/d",
        "postgresql://u:SECRET@h/d?colour=SECRET",
        "SECRET",
        "postgresql:///d",
    ],
)
def test_what_cannot_be_understood_is_refused_without_repeating_it(written):
    with pytest.raises(Unreadable, match="postgresql://USER:PASSWORD@HOST") as refused:
        read_address(written)
    assert "SEC" not in str(refused.value)
    with pytest.raises(SettingInvalid, match=r"^VYX_DIRECT_DATABASE_URL ") as stopped:
        read_settings({}, {"DATABASE_URL": "postgresql://h/d", "VYX_DIRECT_DATABASE_URL": written})
    assert "SEC" not in str(stopped.value)


def test_passwords_are_taken_out_of_what_a_driver_says_in_every_spelling():
    addresses = ["postgresql+psycopg://u:p%40q@h/d", None, "host=h password=w1w", "nonsense"]
    assert without_passwords("no p@q at w1w for nonsense", addresses) == "no ••• at ••• for nonsense"


def test_every_port_of_several_hosts_is_seen():
    assert ports("postgresql://a:5432,b:6543/d") == {"5432", "6543"}
