"""Settings: what is wrong is named, flags win, and each one is documented."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app import settings as module
from app.errors import SettingInvalid
from app.settings import Settings, development_secret, read_settings

REPOSITORY = Path(__file__).parents[1]
POSTGRES = "postgresql://localhost/vyx"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("VYX_PORT", "http"),
        ("VYX_PORT", "-1"),
        ("VYX_PORT", "65536"),
        ("VYX_PORT", "80.5"),
        ("VYX_METRICS_PORT", "none"),
        ("VYX_METRICS_PORT", "70000"),
        ("VYX_MARKET", "/no/such/folder"),
        ("VYX_SPEED", "fast"),
        ("VYX_SPEED", "0"),
        ("VYX_SPEED", "nan"),
        ("VYX_SPEED", "inf"),
        ("VYX_MARKET_FROM", "yesterday"),
        ("VYX_SYMBOLS_MAX", "0"),
        ("VYX_MIN_QUOTE_VOLUME", "-1"),
        ("VYX_EXCHANGE_REST_URL", "data-api.binance.vision"),
        ("VYX_EXCHANGE_STREAM_URL", "https://data-stream.binance.vision"),
        ("VYX_JWKS_URL", "file:///keys.json"),
        ("SUPABASE_URL", "project.supabase.co"),
        ("VYX_JWT_SECRET", "too short"),
        ("VYX_MAX_ACTIVE_TRADERS", "many"),
        ("VYX_LEASE_TTL_S", "2.9"),
        ("VYX_LEASE_TTL_S", "nan"),
        ("VYX_DRAIN_S", "0"),
        ("VYX_POOL_MAX", "1"),
        ("VYX_LOG_FORMAT", "xml"),
        ("VYX_HISTORY_BARS", "99"),
        ("VYX_CONNECTIONS_MAX", "9"),
        ("VYX_CONNECTIONS_PER_ADDRESS_MAX", "0"),
        ("VYX_PUBLIC_METRICS", "perhaps"),
        ("VYX_SECRET_KEY", "too short"),
        ("VYX_SECRET_KEY", "a-key-that-is-long-enough-to-be-one-,short"),
        ("VYX_HOOK_ALLOW", "127.0.0.1/8"),
        ("VYX_HOOK_ALLOW", "home"),
        ("VYX_HOOK_ALLOW", "127.0.0.1/32:http"),
        ("VYX_PUBLIC_URL", "vyx.example"),
        ("VYX_KEEP_DAYS", "90"),
        ("VYX_KEEP_DAYS", "signals=0"),
        ("VYX_KEEP_DAYS", "signals=1.5"),
        ("VYX_KEEP_DAYS", "signals=9,signals=8"),
        ("VYX_KEEP_DAYS", "candles=9"),
    ],
)
def test_a_bad_value_is_refused_by_a_sentence_that_names_its_variable(variable, value):
    """
    One sentence, the variable in it, and exit code 2.
    """
    with pytest.raises(SettingInvalid) as refused:
        read_settings(environment={variable: value})

    assert variable in str(refused.value)
    assert str(refused.value).endswith(".")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "environment"),
    [
        ("VYX_SPEED", {"VYX_MARKET": "binance", "VYX_SPEED": "2"}),
        ("VYX_MARKET_FROM", {"VYX_MARKET": "simulated", "VYX_MARKET_FROM": "2021-04-24T12:00:00Z"}),
        ("VYX_DIRECT_DATABASE_URL", {"VYX_DIRECT_DATABASE_URL": POSTGRES}),
        ("VYX_DIRECT_DATABASE_URL", {"DATABASE_URL": "postgresql://pooler:6543/postgres"}),
    ],
)
def test_settings_that_contradict_each_other_are_refused(variable, environment):
    """
    Each is fine alone; together they are not, and the sentence names the one to change.
    """
    with pytest.raises(SettingInvalid, match=variable):
        read_settings(environment=environment)


@pytest.mark.parametrize(
    ("variable", "environment"),
    [
        ("VYX_HOST", {"VYX_HOST": "0.0.0.0"}),  # noqa: S104 a value to be refused
        ("VYX_HOST", {"VYX_HOST": "::"}),
        ("VYX_HOST", {"VYX_HOST": "vyx.internal"}),
        ("DATABASE_URL", {"DATABASE_URL": POSTGRES}),
        ("DATABASE_URL", {"DATABASE_URL": "host=db.example user=vyx"}),
    ],
)
def test_the_development_secret_is_refused_where_it_is_none(tmp_path, variable, environment):
    """
    Whoever knows how it is made, or reads the folder, would be any user.
    """
    found = read_settings(environment={"VYX_DATA_DIR": str(tmp_path), **environment})
    with pytest.raises(SettingInvalid, match=variable):
        found.signing_secret()

    secret = "a-secret-that-is-long-enough-for-hs256"
    assert read_settings(environment={**environment, "VYX_JWT_SECRET": secret}).signing_secret() == secret
    assert (
        read_settings(environment={**environment, "SUPABASE_URL": "https://x.supabase.co"}).signing_secret()
        is None
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_the_development_secret_is_for_this_machine(tmp_path, host):
    """
    Embedded Postgres is reached by a Unix socket.
    """
    for url in ("", "postgresql:///vyx?host=/tmp/vyx", "host=/tmp/vyx user=postgres"):
        found = read_settings(
            environment={"VYX_DATA_DIR": str(tmp_path), "VYX_HOST": host, "DATABASE_URL": url}
        )
        assert found.signing_secret() == development_secret(tmp_path)


@pytest.mark.parametrize(
    "secret",
    [" " * 40, "a-secret-that-is-long-enough-for-hs256\n", "\ta-secret-that-is-long-enough-for-hs256"],
)
def test_white_space_around_a_secret_is_refused(secret):
    """
    It comes from copying; every token would be refused without a word why.
    """
    with pytest.raises(SettingInvalid, match="VYX_JWT_SECRET"):
        read_settings(environment={"VYX_JWT_SECRET": secret})


def test_keys_of_another_issuer_are_refused():
    """
    The issuer follows from SUPABASE_URL.
    """
    with pytest.raises(SettingInvalid, match="SUPABASE_URL and VYX_JWKS_URL"):
        read_settings(
            environment={
                "SUPABASE_URL": "https://a.supabase.co",
                "VYX_JWKS_URL": "https://b.supabase.co/jwks.json",
            }
        )


def test_children_inherit_no_address_and_no_secret(monkeypatch):
    """
    Whatever a child does, it cannot tell what it does not know.
    """
    for variable in ("DATABASE_URL", "VYX_DIRECT_DATABASE_URL", "VYX_JWT_SECRET", "PGPASSWORD", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "secret")

    assert "secret" not in module.child_environment().values()


def test_a_secret_is_not_shown_when_it_is_refused():
    """
    The message goes to logs.
    """
    with pytest.raises(SettingInvalid) as refused:
        read_settings(environment={"VYX_JWT_SECRET": "hunter2"})

    assert "hunter2" not in str(refused.value)


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default(tmp_path):
    """
    For every setting that has a flag; a flag that was not given counts for nothing.
    """
    variables = {
        "VYX_DATA_DIR": "/var/lib/vyx",
        "VYX_HOST": "::1",
        "VYX_PORT": "1",
        "VYX_METRICS_PORT": "2",
        "VYX_MARKET": "simulated",
        "VYX_SPEED": "3",
    }
    flags = {
        "data_dir": tmp_path,
        "host": "0.0.0.0",  # noqa: S104 a value to be read back
        "port": 4,
        "metrics_port": "off",
        "market": str(tmp_path),
        "speed": 5.0,
        "from": "2021-04-24T12:00:00Z",
    }

    by_variable = read_settings(dict.fromkeys(flags), variables)
    by_flag = read_settings(flags, variables)

    def told(s):
        return (s.data_dir, s.host, s.port, s.metrics_port, s.market, s.speed, s.market_from)

    assert told(by_variable) == (Path("/var/lib/vyx"), "::1", 1, 2, "simulated", 3, None)
    noon = datetime(2021, 4, 24, 12, tzinfo=UTC)
    assert told(by_flag) == (tmp_path, flags["host"], 4, None, str(tmp_path), 5, noon)


def test_a_flag_of_zero_is_given():
    """
    `--port 0` asks for a free port; it does not mean "not given".
    """
    assert read_settings({"port": 0}, {"VYX_PORT": "8000"}).port == 0


def test_an_empty_variable_is_not_set():
    """
    What a compose file passes on for a variable that nobody set.
    """
    assert read_settings(environment={"VYX_PORT": "", "DATABASE_URL": ""}).port == 8787
    assert read_settings(environment={"DATABASE_URL": ""}).database_url is None


def test_the_direct_address_is_the_pooled_one_unless_given():
    """
    Two variables for two kinds of connection, one is enough where both are direct.
    """
    assert read_settings(environment={"DATABASE_URL": POSTGRES}).direct_database_url == POSTGRES


def test_supabase_brings_its_keys_and_its_issuer():
    """
    One variable for a Supabase project; its keys may have another path.
    """
    found = read_settings(environment={"SUPABASE_URL": "https://x.supabase.co/"})
    assert found.jwks_url == "https://x.supabase.co/auth/v1/.well-known/jwks.json"
    assert found.jwt_issuer == "https://x.supabase.co/auth/v1"

    other = {"SUPABASE_URL": "https://x.supabase.co", "VYX_JWKS_URL": "https://x.supabase.co/jwks"}
    assert read_settings(environment=other).jwks_url == "https://x.supabase.co/jwks"


def test_a_machine_is_called_by_its_own_name_first():
    """
    VYX_MACHINE_ID, then Fly's, then host and process.
    """
    both = {"VYX_MACHINE_ID": "mine", "FLY_MACHINE_ID": "fly"}
    assert read_settings(environment=both).machine_id == "mine"
    assert read_settings(environment={"FLY_MACHINE_ID": "fly"}).machine_id == "fly"
    assert re.fullmatch(r".+-\d+", read_settings(environment={}).machine_id)


def test_an_instant_without_an_offset_is_utc():
    """
    And one with an offset is turned into UTC.
    """
    for text in ("2021-04-24T12:00:00", "2021-04-24T12:00:00Z", "2021-04-24T14:00:00+02:00"):
        found = read_settings({"from": text, "market": str(REPOSITORY)}, {})
        assert found.market_from == datetime(2021, 4, 24, 12, tzinfo=UTC)


def test_every_process_of_a_data_directory_has_the_same_development_secret(tmp_path):
    """
    Made once, long enough for HS256, readable by its owner only.
    """
    secret = development_secret(tmp_path / "data")

    assert development_secret(tmp_path / "data") == secret
    assert len(secret) >= module.SECRET_BYTES_MIN
    assert (tmp_path / "data" / "development-secret").stat().st_mode & 0o777 == 0o600
    assert development_secret(tmp_path / "other") != secret


CELLS = 5  # the page's other tables have fewer


def rows():
    """Cells of the table in docs/settings.md: field, flag, variable, default, meaning."""
    text = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines if len(line) == CELLS]


def test_every_setting_is_documented_and_every_documented_one_exists():
    """
    One row per field, in the order of the dataclass; every variable that the reader asks for is named.
    """
    assert [row[0].strip("`") for row in rows()] == [field.name for field in fields(Settings)]
    source = Path(module.__file__).read_text(encoding="utf-8")
    asked = set(re.findall(r'"((?:VYX|FLY)_[A-Z_]+|DATABASE_URL|SUPABASE_URL)"', source))
    named = set(
        re.findall(
            r"`((?:VYX|FLY)_[A-Z_]+|DATABASE_URL|SUPABASE_URL)`", " ".join(" ".join(r) for r in rows())
        )
    )
    assert named == asked


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip("`"))
def test_a_documented_default_and_range_are_the_real_ones(row):
    """
    A number in the default column is what an empty environment gives; the ends of a range are accepted and what lies beyond is not.
    """
    name, variable = row[0].strip("`"), row[2].strip("`")
    plain = re.fullmatch(r"`?([^\s`]+)`?", row[3])
    if plain and plain[1] not in ("none", "DATABASE_URL"):
        assert str(getattr(read_settings(environment={}), name)).lower() == plain[1].lower()
    if span := re.search(r"([\d.]+) … ([\d.]+)", row[4]):
        for end in span.groups():
            read_settings(environment={variable: end})
        for beyond in (float(span[1]) - 1, float(span[2]) + 1):
            with pytest.raises(SettingInvalid, match=variable):
                read_settings(environment={variable: f"{beyond:g}"})


def test_a_part_of_keep_days_leaves_the_others_as_they_are():
    keep = read_settings({}, {"VYX_KEEP_DAYS": "signals=7, deliveries=1"}).keep_days
    assert (keep.signals, keep.events, keep.deliveries, keep.slots, keep.leases) == (7, 90, 1, 90, 90)
