"""
For a developer's machine: tokens without an auth server, and a demo user with example traders on an empty
embedded database.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from uuid import UUID

import jwt

from app.delivery.destinations import Destinations, Draft
from app.delivery.sealing import Sealer
from app.domain.demo import DEMO_USER
from app.errors import CommandFailed, SettingInvalid
from app.package_data import FILTERS_DIR
from app.settings import Settings
from app.store import accounts, trader_state, traders
from app.store.pool import Connection, connect_direct, make_pool
from app.store.traders import PlanColumns
from sandbox.language.compiler import FilterCompiler

CONNECTION_NAME = "vyx-dev-data"
DEMO_FILTERS = sorted(FILTERS_DIR.glob("demo_*.py"))
DEMO_DESTINATION = "this terminal"
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


async def put_user(url: str, user: UUID, tier: str | None) -> None:
    """
    Make the user's row when it is missing, and set its tier when one is given.

    Raises:
        SettingInvalid: the database is not ours, or its users come from sign-up.
    """
    async with await connect_direct(url, name=CONNECTION_NAME) as connection:
        await _check_ours(connection, user)
        await accounts.put_user(connection, user)
        if tier is not None:
            await accounts.set_tier(connection, user, tier)


async def _check_ours(connection: Connection, user: UUID) -> None:
    whose = await accounts.whose_database(connection)
    if not whose.is_migrated:
        raise SettingInvalid(
            "DATABASE_URL names a database that is not Vyx's; run `vyx migrate` if it is to become so."
        )
    if whose.has_sign_up and not await accounts.user_exists(connection, user):
        raise SettingInvalid(
            f"DATABASE_URL names a Supabase project, whose users come from sign-up, and {user} is none of them; give the id of one that is."
        )


async def put_demo(url: str) -> list[str]:
    """
    A demo user with the example traders, started, on a database without any trader.

    Returns:
        The traders' names; [] when there are traders already.
    """
    async with await connect_direct(url, name=CONNECTION_NAME) as connection:
        if await traders.any_exist(connection):
            return []
        await accounts.put_user(connection, DEMO_USER)
        await accounts.set_tier(connection, DEMO_USER, "elite")
        examples = await asyncio.to_thread(_compile_examples)
        for name, source, columns in examples:
            await traders.insert_trader(
                connection,
                DEMO_USER,
                name=name,
                description="",
                filter=source,
                symbols=None,
                frequency="every_bar",
                compiled=columns,
            )
        await trader_state.start_all_of(connection, DEMO_USER)
    return [name for name, _, _ in examples]


def _compile_examples() -> list[tuple[str, str, PlanColumns]]:
    """Name, text and plan of each example."""
    examples = []
    with FilterCompiler() as compiler:
        for file in DEMO_FILTERS:
            source = file.read_text(encoding="utf-8")
            plan = compiler.compile(source).plan
            if plan is None:
                raise CommandFailed(f"The example {file.name} does not compile; run vyx check {file}.")
            name = file.stem.removeprefix("demo_").replace("_", " ")
            columns = PlanColumns(plan=plan.encode(), plan_hash=plan.hash, plan_summary=plan.summary())
            examples.append((name, source, columns))
    return examples


async def point_demo_destination(url: str, key: str, receiver_url: str) -> str | None:
    """
    Let the demo user's signals go to *receiver_url*, one message per bar close.

    Args:
        url: A direct address of the database.
        key: The VYX_SECRET_KEY of this installation.
        receiver_url: Where this process listens.

    Returns:
        The secret of its signatures, new at each start; None when there is no demo user, or it has other destinations instead.
    """
    pool = make_pool(url, max_size=2, name=CONNECTION_NAME)
    await pool.open(wait=True, timeout=10)
    destinations = Destinations(
        pool=pool, sealer=Sealer([key]), allowed=((ip_network("127.0.0.1/32"), None),), public_url=""
    )
    try:
        async with pool.connection() as connection:
            if not await accounts.user_exists(connection, DEMO_USER):
                return None
        existing = await destinations.list_own(DEMO_USER, before=None, limit=100)
        found = next((d for d in existing if d.name == DEMO_DESTINATION), None)
        if found is not None:
            made = await destinations.change(
                DEMO_USER, found.id, {"url": receiver_url}, enabled=True, rotate=True
            )
            return made.secret
        if existing:
            return None
        draft = Draft(
            name=DEMO_DESTINATION,
            kind="webhook",
            url=receiver_url,
            events=["signal", "error", "recovered", "outage"],
            trader_ids=None,
            preset=None,
            template=None,
            quiet_hours=None,
            digest={"per": "bar_close"},
            rate=None,
            expires_after_s=None,
        )
        return (await destinations.create(DEMO_USER, draft)).secret
    finally:
        await pool.close()
