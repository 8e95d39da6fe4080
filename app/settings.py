"""
The only reader of the environment.

Flags win over variables, variables over defaults; the table is ``docs/settings.md``.
A wrong or contradictory value stops the start with one sentence naming the variable.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from app.database_url import Unreadable, ports, read_address
from app.domain.retention import KeepDays, read_keep_days
from app.errors import SettingInvalid

BINANCE_REST_URL = "https://data-api.binance.vision"  # market data only: no key, no trading
BINANCE_STREAM_URL = "wss://data-stream.binance.vision"
KEY_CHARACTERS_MIN = 32
SECRET_BYTES_MIN = 32  # HS256 wants a key as long as its digest; PyJWT only warns


log = structlog.get_logger(__name__)
Opening = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, int | None]  # a range, and one port of it
_FOR_CHILDREN = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "PYTHONDONTWRITEBYTECODE",
)


def child_environment() -> dict[str, str]:
    """
    What a child that needs no secret may know of our environment: where programs are and how text is
    written, no address, no key.
    """
    return {name: os.environ[name] for name in _FOR_CHILDREN if name in os.environ}


def close_libpq_environment() -> None:
    """
    Take every ``PG…`` variable of the shell away from our connections, which say themselves where they go, and give libpq
    the three that a connection must not inherit from a role or a database (PgBouncer passes them on, too).
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    os.environ |= {"PGCLIENTENCODING": "UTF8", "PGDATESTYLE": "ISO", "PGTZ": "UTC"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a process is told from outside; read once, at its start."""

    database_url: str | None
    direct_database_url: str | None
    data_dir: Path
    host: str
    port: int
    metrics_port: int | None
    market: str
    speed: float
    market_from: datetime | None
    symbols_max: int
    min_quote_volume: float
    exchange_rest_url: str
    exchange_stream_url: str
    jwks_url: str | None
    jwt_issuer: str | None
    jwt_secret: str | None
    jwt_audience: str
    active_traders_max: int
    machine_id: str
    lease_ttl_s: float
    drain_s: float
    pool_max: int
    connections_max: int
    connections_per_address_max: int
    has_public_metrics: bool
    cors_origins: tuple[str, ...]
    log_format: str
    history_bars: int
    secret_keys: tuple[str, ...]
    hook_allow: tuple[Opening, ...]
    public_url: str | None
    universe_refresh_s: float
    keep_days: KeepDays
    is_embedded: bool = False  # the database is the embedded one, of this data directory

    def addresses(self) -> tuple[str, str]:
        """
        The database's pooled and direct address.

        Raises:
            SettingInvalid: none is set, and nobody has filled in the embedded one's.
        """
        if self.database_url is None or self.direct_database_url is None:
            raise SettingInvalid(
                "DATABASE_URL is not set and no embedded database runs in the data directory; start `vyx up`, or set it."
            )
        return self.database_url, self.direct_database_url

    def signing_secret(self) -> str | None:
        """
        The HS256 secret; of an installation of one's own that configured neither a secret nor keys, the
        development secret.

        Raises:
            SettingInvalid: whoever can reach this process, or its database, is not this machine alone: the
            development secret is no secret there.
        """
        if self.jwt_secret is not None or self.jwks_url is not None:
            return self.jwt_secret
        if self.database_url is not None and not (self.is_embedded or _is_on_this_machine(self.database_url)):
            raise SettingInvalid(
                "DATABASE_URL names a database of its own and nothing says who may sign in: set SUPABASE_URL, VYX_JWKS_URL or VYX_JWT_SECRET."
            )
        if not _is_loopback(self.host):
            raise SettingInvalid(
                f"VYX_HOST {self.host} can be reached from elsewhere while tokens are signed with the development secret: set SUPABASE_URL, VYX_JWKS_URL or VYX_JWT_SECRET."
            )
        return development_secret(self.data_dir)

    @property
    def is_file_market(self) -> bool:
        return self.market not in ("auto", "binance", "simulated")


@dataclass(frozen=True)
class _Reader:
    """Looks a value up, flag first, and says which variable is wrong."""

    environment: Mapping[str, str]
    flags: Mapping[str, object]

    def text(self, variable: str, default: str | None = None, *, flag: str | None = None) -> str | None:
        given = self.flags.get(flag) if flag else None
        value = str(given) if given is not None else self.environment.get(variable)
        return value if value not in (None, "") else default

    def number(
        self, variable: str, default: float, *, low: float, high: float, flag: str | None = None
    ) -> float:
        raw = self.text(variable, None, flag=flag)
        if raw is None:
            return default
        try:
            value = float(raw)
        except ValueError:
            raise SettingInvalid(f"{variable} must be a number, got {raw!r}.") from None
        if not low <= value <= high:
            raise SettingInvalid(f"{variable} must lie between {low:g} and {high:g}, got {raw}.")
        return value

    def whole(self, variable: str, default: int, *, low: int, high: int, flag: str | None = None) -> int:
        value = self.number(variable, default, low=low, high=high, flag=flag)
        if value != int(value):
            raise SettingInvalid(f"{variable} must be a whole number, got {value:g}.")
        return int(value)

    def flag(self, variable: str) -> bool:
        raw = (self.text(variable) or "false").lower()
        if raw not in ("true", "false", "1", "0"):
            raise SettingInvalid(f"{variable} must be true or false, got {raw!r}.")
        return raw in ("true", "1")

    def address(self, variable: str) -> str | None:
        value = self.text(variable)
        try:
            return read_address(value) if value is not None else None
        except Unreadable as error:
            raise SettingInvalid(f"{variable} {error}.") from None

    def url(self, variable: str, default: str | None, schemes: tuple[str, ...]) -> str | None:
        value = self.text(variable, default)
        if value is not None and (urlsplit(value).scheme not in schemes or not urlsplit(value).netloc):
            raise SettingInvalid(
                f"{variable} must be an address starting with {' or '.join(s + '://' for s in schemes)}."
            )
        return value.rstrip("/") if value else None


def read_settings(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    metrics_port_default: int = 9091,
) -> Settings:
    """
    Settings from flags and the environment.

    Args:
        flags: Values given on the command line, by flag name with underscores; None means not given.
        environment: Variables; the process's own when None.
        metrics_port_default: 9091 for a web process, 9092 for a worker.

    Raises:
        SettingInvalid: a value is out of its range, or two contradict each other; names the variable.
    """
    read = _Reader(os.environ if environment is None else environment, flags or {})
    supabase_url = read.url("SUPABASE_URL", None, ("http", "https"))
    jwks_url = read.url(
        "VYX_JWKS_URL",
        f"{supabase_url}/auth/v1/.well-known/jwks.json" if supabase_url else None,
        ("http", "https"),
    )
    settings = Settings(
        database_url=read.address("DATABASE_URL"),
        direct_database_url=read.address("VYX_DIRECT_DATABASE_URL") or read.address("DATABASE_URL"),
        data_dir=Path(read.text("VYX_DATA_DIR", ".vyx", flag="data_dir") or ".vyx").expanduser().absolute(),
        host=read.text("VYX_HOST", "127.0.0.1", flag="host") or "127.0.0.1",
        port=read.whole("VYX_PORT", 8787, low=0, high=65535, flag="port"),
        metrics_port=_metrics_port(read, metrics_port_default),
        market=_market(read),
        speed=read.number("VYX_SPEED", 1, low=0.01, high=10_000, flag="speed"),
        market_from=_instant(read, "VYX_MARKET_FROM", "from"),
        symbols_max=read.whole("VYX_SYMBOLS_MAX", 600, low=1, high=2000),
        min_quote_volume=read.number("VYX_MIN_QUOTE_VOLUME", 0, low=0, high=1e15),
        exchange_rest_url=read.url("VYX_EXCHANGE_REST_URL", BINANCE_REST_URL, ("http", "https"))
        or BINANCE_REST_URL,
        exchange_stream_url=read.url("VYX_EXCHANGE_STREAM_URL", BINANCE_STREAM_URL, ("ws", "wss"))
        or BINANCE_STREAM_URL,
        jwks_url=jwks_url,
        jwt_issuer=f"{supabase_url}/auth/v1" if supabase_url else None,
        jwt_secret=read.text("VYX_JWT_SECRET"),
        jwt_audience=read.text("VYX_JWT_AUDIENCE", "authenticated") or "authenticated",
        active_traders_max=read.whole("VYX_MAX_ACTIVE_TRADERS", 100_000, low=0, high=10_000_000),
        machine_id=read.text("VYX_MACHINE_ID", read.text("FLY_MACHINE_ID"))
        or f"{socket.gethostname()}-{os.getpid()}",
        lease_ttl_s=read.number("VYX_LEASE_TTL_S", 10, low=3, high=600),
        drain_s=read.number("VYX_DRAIN_S", 25, low=1, high=290),
        pool_max=read.whole("VYX_POOL_MAX", 10, low=2, high=100),
        connections_max=read.whole("VYX_CONNECTIONS_MAX", 4000, low=10, high=100_000),
        connections_per_address_max=read.whole("VYX_CONNECTIONS_PER_ADDRESS_MAX", 1000, low=1, high=100_000),
        has_public_metrics=read.flag("VYX_PUBLIC_METRICS"),
        cors_origins=tuple(
            o.strip() for o in (read.text("VYX_CORS_ORIGINS", "") or "").split(",") if o.strip()
        ),
        log_format=_log_format(read),
        history_bars=read.whole("VYX_HISTORY_BARS", 1000, low=100, high=3000),
        secret_keys=_secret_keys(read),
        hook_allow=_hook_allow(read),
        public_url=read.url("VYX_PUBLIC_URL", None, ("http", "https")),
        universe_refresh_s=read.number("VYX_UNIVERSE_REFRESH_S", 600, low=1, high=86_400),
        keep_days=_keep_days(read),
    )
    _check_relations(settings, read)
    return settings


class _Recording(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return default


def known_variables() -> frozenset[str]:
    """Every variable that :func:`read_settings` looks up."""
    environment = _Recording()
    read_settings({}, environment)
    return frozenset(environment.asked)


def _metrics_port(read: _Reader, default: int) -> int | None:
    raw = read.text("VYX_METRICS_PORT", None, flag="metrics_port")
    if raw == "off":
        return None
    try:
        return read.whole("VYX_METRICS_PORT", default, low=0, high=65535, flag="metrics_port")
    except SettingInvalid:
        raise SettingInvalid(
            f"VYX_METRICS_PORT must be a port (0 picks a free one) or off, got {raw!r}."
        ) from None


def _market(read: _Reader) -> str:
    value = read.text("VYX_MARKET", "auto", flag="market") or "auto"
    if value in ("auto", "binance", "simulated"):
        return value
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise SettingInvalid(
            f"VYX_MARKET must be auto, binance, simulated or a path of candle files; there is no {path}."
        )
    return str(path)


def _instant(read: _Reader, variable: str, flag: str) -> datetime | None:
    raw = read.text(variable, None, flag=flag)
    if raw is None:
        return None
    try:
        instant = datetime.fromisoformat(raw)
    except ValueError:
        raise SettingInvalid(
            f"{variable} must be an instant such as 2021-04-24T12:00:00Z, got {raw!r}."
        ) from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _secret_keys(read: _Reader) -> tuple[str, ...]:
    keys = _words(read.text("VYX_SECRET_KEY"))
    if any(len(key) < KEY_CHARACTERS_MIN for key in keys):
        raise SettingInvalid(
            f"VYX_SECRET_KEY must have at least {KEY_CHARACTERS_MIN} characters, each of two while rotating (new,old); `openssl rand -hex 32` makes one."
        )
    return keys


def _hook_allow(read: _Reader) -> tuple[Opening, ...]:
    try:
        return tuple(map(_opening, _words(read.text("VYX_HOOK_ALLOW"))))
    except ValueError as error:
        raise SettingInvalid(
            f"VYX_HOOK_ALLOW must be address ranges such as 10.1.0.0/16 or 127.0.0.1/32:8080: {error}."
        ) from None


def _opening(word: str) -> Opening:
    """
    Raises:
        ValueError: it is no range, or its port is no number.
    """
    network, slash, rest = word.partition("/")
    length, colon, port = rest.partition(":")
    return ipaddress.ip_network(f"{network}{slash}{length}"), int(port) if colon else None


def _keep_days(read: _Reader) -> KeepDays:
    try:
        return read_keep_days(read.text("VYX_KEEP_DAYS") or "")
    except ValueError as error:
        raise SettingInvalid(
            f"VYX_KEEP_DAYS must be such as {KeepDays()} (a part may be given): {error}."
        ) from None


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _log_format(read: _Reader) -> str:
    value = read.text("VYX_LOG_FORMAT", "console" if os.isatty(2) else "json") or "json"
    if value not in ("console", "json"):
        raise SettingInvalid(f"VYX_LOG_FORMAT must be console or json, got {value!r}.")
    return value


def _check_relations(settings: Settings, read: _Reader) -> None:
    if settings.speed != 1 and settings.market == "binance":
        raise SettingInvalid(
            "VYX_SPEED can be set for simulated and file markets only; Binance runs at its own speed."
        )
    if settings.market_from is not None and not settings.is_file_market:
        raise SettingInvalid("VYX_MARKET_FROM can be set for a file market only.")
    if settings.jwt_secret is not None and settings.jwt_secret != settings.jwt_secret.strip():
        raise SettingInvalid(
            "VYX_JWT_SECRET begins or ends with white space, which the auth server's does not; give the secret alone."
        )
    supabase_url, jwks_url = read.text("SUPABASE_URL"), read.text("VYX_JWKS_URL")
    if supabase_url and jwks_url and urlsplit(supabase_url).hostname != urlsplit(jwks_url).hostname:
        raise SettingInvalid(
            f"SUPABASE_URL and VYX_JWKS_URL contradict each other: tokens issued by {urlsplit(supabase_url).hostname} are not signed with the keys of {urlsplit(jwks_url).hostname}; set one of them."
        )
    if settings.jwt_secret is not None and len(settings.jwt_secret.encode()) < SECRET_BYTES_MIN:
        raise SettingInvalid(
            f"VYX_JWT_SECRET must have at least {SECRET_BYTES_MIN} bytes; {len(settings.jwt_secret.encode())} are too easy to guess."
        )
    if settings.database_url is None and read.text("VYX_DIRECT_DATABASE_URL"):
        raise SettingInvalid(
            "VYX_DIRECT_DATABASE_URL is set but DATABASE_URL is not; set both, or neither for the embedded database."
        )
    if settings.direct_database_url and "6543" in ports(settings.direct_database_url):
        raise SettingInvalid(
            "VYX_DIRECT_DATABASE_URL must be a direct or session-mode connection: port 6543 is Supabase's transaction pooler, where LISTEN and session locks are lost."
        )


def _is_on_this_machine(database_url: str) -> bool:
    """Whether it is reached by a Unix socket, as the embedded one is."""
    try:
        given = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        return False
    return str(given.get("host", "")).startswith(("/", "@"))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def development_secret(data_dir: Path) -> str:
    """
    The HS256 secret of an installation that configured none: made once, kept in *data_dir*, readable by its
    owner only.

    Every process of the same data directory gets the same one; two that race settle on the first file.
    """
    return _made_once(data_dir / "development-secret")


def embedded_key(data_dir: Path) -> str:
    """The VYX_SECRET_KEY of an embedded installation that configured none, made and kept the same way."""
    return _made_once(data_dir / "secret-key")


def _made_once(path: Path) -> str:
    data_dir = path.parent
    data_dir.mkdir(parents=True, exist_ok=True)
    made = data_dir / f"{path.name}.{os.getpid()}"
    if path.exists() and len(path.read_bytes().strip()) < SECRET_BYTES_MIN:
        log.warning("a secret was cut short, making another one", file=str(path))
        path.unlink()
    if not path.exists():
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)  # whole or not at all, and never over another one's
        made.unlink()
    return path.read_text(encoding="ascii").strip()
