"""Settings: where each came from, those nobody reads, and who may sign in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
import msgspec

from app.doctor.findings import Finding, doubtful, right, wrong
from app.errors import SettingInvalid
from app.http.keys import ALGORITHMS, fetch
from app.settings import Settings, known_variables

_SECRET = ("SECRET", "DATABASE_URL")  # parts of the names of variables whose value is not shown
_FAMILIES = ("VYX_", "SUPABASE_URL", "DATABASE_")


def given(environment: Mapping[str, str]) -> list[Finding]:
    """Each variable that is set, its value unless secret; all others have their defaults (docs/settings.md)."""
    found, known = [], known_variables()
    for name in sorted(environment):
        if name in known:
            is_secret = any(part in name for part in _SECRET)
            value = "set, not shown" if is_secret else environment[name]
            found.append(right("setting", f"{name}: {value} (from the environment)"))
        elif name.startswith(_FAMILIES):
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"write {near[0]}" if near else "remove it"
            found.append(
                doubtful(
                    "setting", f"{name} is set and nothing reads it.", f"If it is meant for Vyx, {meant}."
                )
            )
    count = len(known - environment.keys())
    return [*found, right("setting", f"{count} settings have their defaults (docs/settings.md)")]


async def sign_in(settings: Settings) -> list[Finding]:
    """Whether tokens can be checked: a secret, or keys that the auth server publishes."""
    try:
        secret = settings.signing_secret()
    except SettingInvalid as error:
        return [wrong("sign-in", str(error), "Set one of them for every process.")]
    found = []
    if secret is not None:
        kind = "VYX_JWT_SECRET" if settings.jwt_secret else "the development secret"
        found.append(right("sign-in", f"HS256 tokens are checked with {kind}"))
    if settings.jwks_url is not None:
        found.append(await _keys(settings.jwks_url, has_secret=secret is not None))
        if settings.jwt_issuer is None:
            found.append(
                doubtful(
                    "sign-in",
                    "Tokens of any issuer are accepted when a key fits.",
                    "Set SUPABASE_URL instead of VYX_JWKS_URL.",
                )
            )
    return found


async def _keys(url: str, *, has_secret: bool) -> Finding:
    host = urlsplit(url).hostname
    try:
        document = msgspec.json.decode(await fetch(url))
        keys = [key for key in document["keys"] if key.get("alg") in ALGORITHMS]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        return wrong("sign-in", f"The signing keys at {host} cannot be had ({why}).", "Check SUPABASE_URL.")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return wrong("sign-in", f"{host} answers, but not with signing keys.", "Check SUPABASE_URL.")
    if keys:
        return right("sign-in", f"{len(keys)} signing keys at {host}")
    say = doubtful if has_secret else wrong
    return say(
        "sign-in",
        f"{host} publishes no ES256 or RS256 key.",
        "Make asymmetric signing keys in the project's settings, or set VYX_JWT_SECRET to its shared secret.",
    )


def browsers(settings: Settings) -> list[Finding]:
    """Whether a page of another origin may call, and from where."""
    if not settings.cors_origins:
        nobody = "No browser page of another origin may call."
        return [
            doubtful("browsers", nobody, "Set VYX_CORS_ORIGINS to your frontend's origin, if it has one.")
        ]
    found = []
    for origin in settings.cors_origins:
        parts = urlsplit(origin)
        if origin == "*":
            found.append(doubtful("browsers", "Every page may call.", "Name your frontend's origins."))
        elif parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            found.append(
                wrong(
                    "browsers",
                    f"{origin} is no origin: no browser sends it.",
                    "Write scheme and host alone, such as https://app.example.com.",
                )
            )
        else:
            found.append(right("browsers", f"pages of {origin} may call"))
    return found
