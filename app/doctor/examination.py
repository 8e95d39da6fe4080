"""The whole examination, in the order in which a person would mend things."""

from __future__ import annotations

from collections.abc import Mapping

from app.doctor import configuration, database, exchange
from app.doctor.database import Planned
from app.doctor.findings import Finding, doubtful
from app.settings import Settings


async def examine(settings: Settings, environment: Mapping[str, str], planned: Planned) -> list[Finding]:
    """
    Args:
        settings: With the database's addresses where one is known.
        environment: The process's own.
        planned: What is to run.
    """
    found = configuration.given(environment)
    found += await configuration.sign_in(settings)
    found += configuration.browsers(settings)
    if settings.database_url is None or settings.direct_database_url is None:
        nothing = f"DATABASE_URL is not set and no embedded database runs in {settings.data_dir}."
        found.append(doubtful("database", nothing, "Set it before a deployment; `vyx up` starts one here."))
    else:
        found += await database.examine(settings.database_url, settings.direct_database_url, planned)
        if not settings.is_embedded and settings.secret_keys == ():
            found.append(
                doubtful(
                    "delivery",
                    "Nothing is delivered without VYX_SECRET_KEY.",
                    "Set it: `openssl rand -hex 32` makes one.",
                )
            )
    return found + await exchange.examine(settings)
