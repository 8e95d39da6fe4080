"""
For a developer's machine: tokens without an auth server, and a demo user with example traders on an empty embedded database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import jwt
import psycopg
from psycopg.types.json import Jsonb

from app.errors import CommandFailed, SettingInvalid
from app.lifecycle import summary_of
from app.settings import Settings
from app.store import queries
from app.store.refusals import translated
from sandbox.language.compiler import FilterCompiler

_SQL = queries.load("development")
DEMO_USER = UUID("00000000-0000-4000-8000-00000000d3a0")
DEMO_FILTERS = sorted((Path(__file__).parents[1] / "docs" / "filters").glob("demo_*.py"))
DEMO_TOKEN_MINUTES = 7 * 24 * 60


def make_token(settings: Settings, user: UUID, *, minutes: int) -> str:
    """
    An HS256 token as Supabase would issue it.

    Raises:
        CommandFailed: tokens are checked against signing keys only: nobody here could sign one.
        SettingInvalid: the development secret is no secret where this database is.
    """
    secret = settings.signing_secret()
    if secret is None:
        raise CommandFailed(
            "Tokens are checked against Supabase's signing keys (SUPABASE_URL or VYX_JWKS_URL): sign in there, or set VYX_JWT_SECRET."
        )
    now = datetime.now(UTC)
    claims = {
        "sub": str(user),
        "role": "authenticated",
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + timedelta(minutes=minutes),
    }
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, secret, algorithm="HS256")


def put_user(url: str, user: UUID, tier: str | None) -> None:
    """
    Make the user's row when it is missing, and set its tier when one is given.

    Raises:
        SettingInvalid: the database is not ours, or its users come from sign-up.
    """
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection, translated():
        _check_ours(connection, user)
        connection.execute(_SQL["put_user"], {"user_id": user})
        if tier is not None:
            connection.execute(_SQL["set_tier"], {"user_id": user, "tier": tier})


def _check_ours(connection: psycopg.Connection, user: UUID) -> None:
    is_migrated, has_sign_up = connection.execute(_SQL["whose_database"]).fetchone() or (False, False)
    if not is_migrated:
        raise SettingInvalid(
            "DATABASE_URL names a database that is not Vyx's; run `vyx migrate` if it is to become so."
        )
    if has_sign_up and connection.execute(_SQL["has_user"], {"user_id": user}).fetchone() != (True,):
        raise SettingInvalid(
            f"DATABASE_URL names a Supabase project, whose users come from sign-up, and {user} is none of them; give the id of one that is."
        )


def put_demo(url: str) -> list[str]:
    """A demo user with the example traders, started, on a database without any trader; returns their names, [] when there are traders already."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        row = connection.execute(_SQL["has_traders"]).fetchone()
        if row is not None and row[0]:
            return []
    put_user(url, DEMO_USER, "elite")
    names = []
    with (
        FilterCompiler() as compiler,
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection,
    ):
        for file in DEMO_FILTERS:
            source = file.read_text(encoding="utf-8")
            plan = compiler.compile(source).plan
            if plan is None:
                raise CommandFailed(f"The example {file.name} does not compile; run vyx check {file}.")
            name = file.stem.removeprefix("demo_").replace("_", " ")
            parameters = {
                "user_id": DEMO_USER,
                "name": name,
                "filter": source,
                "plan": plan.encode().decode(),
                "plan_hash": plan.hash,
                "plan_summary": Jsonb(summary_of(plan)),
            }
            connection.execute(_SQL["put_demo_trader"], parameters)
            names.append(name)
        connection.execute(_SQL["start_all_of"], {"user_id": DEMO_USER})
    return names
