"""
From a message to what is sent: one function per kind of destination.

Decided here: each service's address, body, limits and escaping. An ``HttpRequest`` goes through our own transport, which checks
addresses and sees the answer; a ``ChannelCall`` goes to third-party code in a child process.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from app.delivery.rules import signing
from app.delivery.rules.messages import Message, pair_of
from app.delivery.rules.presets import PRESETS
from app.delivery.rules.templates import Escape, TemplateInvalid, render

USER_AGENT = "Vyx-Delivery/1 (+https://vyx.dev)"
JSON = "application/json"
HEADERS_MAX = 20
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
RESERVED_HEADERS = frozenset(
    {
        *(
            "accept-encoding",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "date",
        ),
        *(
            "expect",
            "forwarded",
            "host",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
        ),
        *("transfer-encoding", "upgrade", "user-agent", "via"),
    }
)
RESERVED_PREFIXES = ("webhook-", "x-forwarded-", "proxy-", "sec-")
REQUIRED_SETTINGS: dict[str, tuple[str, ...]] = {
    "telegram": ("bot_token", "chat_id"),
    "pushover": ("app_token", "user_key"),
    "email": ("smtp_host", "from", "to"),
    "ntfy": ("topic",),
}
OPTIONAL_SETTINGS: dict[str, tuple[str, ...]] = {
    "email": ("smtp_port", "smtp_user", "smtp_password", "smtp_security"),
    "ntfy": ("token",),
}
NEEDS_URL = frozenset({"webhook", "discord", "slack", "apprise"})
DEFAULT_URLS = {
    "telegram": "https://api.telegram.org",
    "pushover": "https://api.pushover.net",
    "ntfy": "https://ntfy.sh",
}
_MARKDOWN = re.compile(r"([\\*_~`>|\[\]()#@])")


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """
    What is sealed of a destination. ``keys``: secrets or private keys that sign, the newest first; ``previous_until``: after it only
    the newest does.
    """

    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    keys: Sequence[str] = ()
    previous_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class ChannelCall:
    """A call of the apprise library: a service's URL in its notation, and what to say."""

    url: str
    title: str
    body: str


Format = Callable[[Message, Secrets, str | None, datetime], HttpRequest | ChannelCall]


def make_request(
    kind: str, message: Message, secrets: Secrets, *, preset: str | None, template: str | None, now: datetime
) -> HttpRequest | ChannelCall:
    """
    What one attempt sends. The body depends on the message alone; only the signature's timestamp follows *now*.

    Raises:
        TemplateInvalid: the destination's template cannot be filled in with this message.
    """
    if preset is not None:
        template = PRESETS[preset].template
        if message.event == "test" and kind == "webhook":
            return _webhook_request(b'{"test": true}', JSON, message, secrets, now)
    return _FORMATS[kind](message, secrets, template, now)


def check_headers(headers: Mapping[str, str]) -> None:
    """
    Raises:
        ValueError: too many, a reserved name, or a value that is not one line of printable ASCII.
    """
    if len(headers) > HEADERS_MAX:
        raise ValueError(f"headers: at most {HEADERS_MAX} are sent, {len(headers)} were given.")
    for name, value in headers.items():
        if not _HEADER_NAME.match(name):
            raise ValueError(f"headers: {name[:80]!r} is not a header's name.")
        if name.lower() in RESERVED_HEADERS or name.lower().startswith(RESERVED_PREFIXES):
            raise ValueError(f"headers: {name} is set by Vyx or by HTTP itself and cannot be chosen.")
        if len(value) > 1000 or not value.isascii() or not value.isprintable():
            raise ValueError(f"headers: the value of {name} must be at most 1000 printable ASCII characters.")


def escape_of(kind: str) -> Escape:
    """How a string enters a template of this kind."""
    return _ESCAPES.get(kind, str)


def fill(template: str, message: Message, secrets: Secrets, escape: Escape) -> str:
    """
    The template filled in once per signal of the message, a line each.

    Raises:
        TemplateInvalid
    """
    return "\n".join(render(template, _context(data, secrets), escape) for data in message.signals)


def check_template(kind: str, template: str, message: Message, secrets: Secrets) -> None:
    """
    Fill *template* in with a sample *message*; the body of a webhook has to be JSON where it looks like it.

    Raises:
        TemplateInvalid: one sentence for its author.
    """
    text = fill(template, message, secrets, escape_of(kind))
    if not text.strip():
        raise TemplateInvalid("The template writes nothing.")
    if (
        kind == "webhook"
        and template.lstrip().startswith(("{", "["))
        and not template.lstrip().startswith("{{")
    ):
        try:
            json.loads(text)
        except ValueError as error:
            raise TemplateInvalid(
                f"The template does not write JSON: {error}. It wrote {text[:80]}"
            ) from None


def _context(data: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    base, quote_asset = pair_of(str(data["symbol"]))
    instants = {
        name: data[name].isoformat().replace("+00:00", "Z")
        for name in ("triggered_at", "screened_at", "created_at")
    }
    return {**data, **instants, "base": base, "quote": quote_asset, "settings": dict(secrets.settings)}


def _text(message: Message, secrets: Secrets, template: str | None, escape: Escape) -> str:
    """What people read, escaped: the template's where it applies, which is to signals only."""
    if template is not None and message.signals:
        return fill(template, message, secrets, escape)
    return escape(message.text)


# -- webhooks --------------------------------------------------------------------------------------------------------------


def _webhook(message: Message, secrets: Secrets, template: str | None, now: datetime) -> HttpRequest:
    if template is None or message.event != "signal":
        return _webhook_request(message.body(), JSON, message, secrets, now)
    text = fill(template, message, secrets, _escape_json)
    media_type = JSON if text.lstrip().startswith(("{", "[")) else "text/plain; charset=utf-8"
    return _webhook_request(text.encode(), media_type, message, secrets, now)


def _webhook_request(
    body: bytes, media_type: str, message: Message, secrets: Secrets, now: datetime
) -> HttpRequest:
    keys = (
        secrets.keys if secrets.previous_until is None or now < secrets.previous_until else secrets.keys[:1]
    )
    signed = signing.headers(message.id, now, body, keys) if keys else {}
    return HttpRequest(
        url=secrets.url or "", headers={**secrets.headers, "content-type": media_type, **signed}, body=body
    )


# -- services --------------------------------------------------------------------------------------------------------------


def _json_request(url: str, document: Mapping[str, Any]) -> HttpRequest:
    return HttpRequest(url=url, headers={"content-type": JSON}, body=json.dumps(document).encode())


def _telegram(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> HttpRequest:
    text = _text(message, secrets, template, _escape_html)
    if template is None or not message.signals:
        link = f'\n<a href="{html.escape(message.url)}">chart and reason</a>' if message.url else ""
        text = f"<b>{_escape_html(message.title)}</b>\n{text}{link}"
    url = f"{secrets.url or DEFAULT_URLS['telegram']}/bot{secrets.settings['bot_token']}/sendMessage"
    document = {"chat_id": secrets.settings["chat_id"], "text": _cut(text, 4096), "parse_mode": "HTML"}
    return _json_request(url, document | {"link_preview_options": {"is_disabled": True}})


def _discord(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> HttpRequest:
    text = _text(message, secrets, template, _escape_markdown)
    if template is None or not message.signals:
        text = f"**{_escape_markdown(message.title)}**\n{text}" + (
            f"\n<{message.url}>" if message.url else ""
        )
    return _json_request(secrets.url or "", {"content": _cut(text, 2000), "allowed_mentions": {"parse": []}})


def _slack(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> HttpRequest:
    text = _text(message, secrets, template, _escape_slack)
    if template is None or not message.signals:
        text = f"*{_escape_slack(message.title)}*\n{text}" + (
            f"\n<{message.url}|chart and reason>" if message.url else ""
        )
    return _json_request(secrets.url or "", {"text": _cut(text, 3000)})


def _ntfy(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> HttpRequest:
    document = {
        "topic": secrets.settings["topic"],
        "title": message.title,
        "message": _cut(_text(message, secrets, template, str), 3500),
    }
    if message.url and message.url.startswith("http"):
        document["click"] = message.url
    request = _json_request(secrets.url or DEFAULT_URLS["ntfy"], document)
    token = secrets.settings.get("token")
    if token is None:
        return request
    return HttpRequest(
        url=request.url, headers={**request.headers, "authorization": f"Bearer {token}"}, body=request.body
    )


def _pushover(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> HttpRequest:
    document = {
        "token": secrets.settings["app_token"],
        "user": secrets.settings["user_key"],
        "title": _cut(message.title, 250),
        "message": _cut(_text(message, secrets, template, str), 1024),
    }
    if message.url:
        document["url"] = _cut(message.url, 512)
    return _json_request(f"{secrets.url or DEFAULT_URLS['pushover']}/1/messages.json", document)


def _email(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> ChannelCall:
    given = secrets.settings
    security = given.get("smtp_security", "starttls")
    scheme = "mailto" if security == "none" else "mailtos"
    user = given.get("smtp_user")
    credentials = f"{quote(user, safe='')}:{quote(given.get('smtp_password', ''), safe='')}@" if user else ""
    port = f":{int(given['smtp_port'])}" if given.get("smtp_port") else ""
    options = {"from": given["from"], "to": given["to"], "format": "text"}
    if security != "none":
        options["mode"] = security
    url = f"{scheme}://{credentials}{given['smtp_host']}{port}/?{urlencode(options, quote_via=quote)}"
    return ChannelCall(
        url=url, title=message.title, body=_with_link(message, _text(message, secrets, template, str))
    )


def _apprise(message: Message, secrets: Secrets, template: str | None, _now: datetime) -> ChannelCall:
    text = _with_link(message, _text(message, secrets, template, str))
    return ChannelCall(url=secrets.url or "", title=message.title, body=text)


def _with_link(message: Message, text: str) -> str:
    return f"{text}\n{message.url}" if message.url else text


def _cut(text: str, characters_max: int) -> str:
    """As many whole lines as fit: a cut within a line could split a tag or an entity."""
    if len(text) <= characters_max:
        return text
    kept = text[: characters_max - 1].rpartition("\n")[0]
    return f"{kept}\n…" if kept else text[: characters_max - 1] + "…"


# -- escaping --------------------------------------------------------------------------------------------------------------


def _escape_html(text: str) -> str:
    return html.escape(text, quote=True)


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _escape_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escape_json(text: str) -> str:
    return json.dumps(text)[1:-1]


_ESCAPES: dict[str, Escape] = {
    "telegram": _escape_html,
    "discord": _escape_markdown,
    "slack": _escape_slack,
    "webhook": _escape_json,
}
_FORMATS: dict[str, Format] = {
    "webhook": _webhook,
    "telegram": _telegram,
    "discord": _discord,
    "slack": _slack,
    "email": _email,
    "ntfy": _ntfy,
    "pushover": _pushover,
    "apprise": _apprise,
}


def service_key(kind: str, secrets: Secrets) -> str | None:
    """What destinations share that a limit of their service counts together; says nothing about the token."""
    if kind != "telegram":
        return None
    digest = signing.fingerprint(secrets.settings["bot_token"])
    return f"telegram:{digest}"


def hint_of(kind: str, secrets: Secrets) -> str:
    """Enough to recognise the destination, not enough to use it."""
    given = secrets.settings
    match kind:
        case "telegram":
            return f"chat {given['chat_id']}"
        case "email":
            return f"to {given['to']}"
        case "ntfy":
            return f"topic {given['topic'][:3]}…"
        case "pushover":
            return f"user …{given['user_key'][-4:]}"
        case "apprise":
            return f"{(secrets.url or '').partition('://')[0]}://…"
        case _:
            return _host_of(secrets.url or "") + "/…"


def _host_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].partition("?")[0]
