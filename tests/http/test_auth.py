from __future__ import annotations

import asyncio
import json
import time
import uuid

import aiohttp
import aiohttp.web
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.errors import Kind, Refused
from app.http.auth import Caller, KnownUsers, Verifier, make_verifier
from app.http.keys import COOLDOWN_S, FRESH_S, STALE_S, SigningKeys, fetch
from app.http.problems import Unauthorized
from app.settings import development_secret, read_settings

SECRET = "a-secret-for-tests-that-is-long-enough"
ISSUER = "https://project.supabase.co/auth/v1"
USER = uuid.UUID("11111111-1111-4111-8111-111111111111")


def claims(**changes):
    given = {
        "sub": str(USER),
        "role": "authenticated",
        "aud": "authenticated",
        "iss": ISSUER,
        "exp": time.time() + 60,
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def jwk(private, kid, algorithm):
    public = private.public_key()
    kind = jwt.algorithms.ECAlgorithm if algorithm == "ES256" else jwt.algorithms.RSAAlgorithm
    return {**json.loads(kind.to_jwk(public)), "kid": kid, "alg": algorithm, "use": "sig"}


@pytest.fixture(scope="module")
def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class AuthServer:
    """A JWKS endpoint that can be told to fail; counts how often it was asked. ``clock`` only moves by hand."""

    def __init__(self, *keys):
        self.keys = list(keys)
        self.asked = 0
        self.is_down = False
        self.now = 1000.0

    async def fetch(self, _url):
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise aiohttp.ClientConnectionError("down")
        return json.dumps({"keys": self.keys}).encode()

    def signing_keys(self):
        return SigningKeys("https://auth.test/jwks.json", fetch=self.fetch, clock=lambda: self.now)

    def verifier(self, **options):
        given = {"secret": None, "audience": "authenticated", "issuer": ISSUER, **options}
        return Verifier(keys=self.signing_keys(), **given)


@pytest.fixture
def auth_server(ec_key, rsa_key):
    return AuthServer(jwk(ec_key, "ec", "ES256"), jwk(rsa_key, "rsa", "RS256"))


async def test_tokens_signed_by_either_kind_of_published_key_are_accepted(auth_server, ec_key, rsa_key):
    verifier = auth_server.verifier()

    for key, kid, algorithm in ((ec_key, "ec", "ES256"), (rsa_key, "rsa", "RS256")):
        token = jwt.encode(claims(exp=2_000_000_000), key, algorithm, headers={"kid": kid})
        assert await verifier.verify(token) == Caller(USER, 2_000_000_000.0)
    assert auth_server.asked == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sub": "42"},
        {"aud": "other"},
        {"aud": None},
        {"iss": "https://other.test"},
        {"iss": None},
        {"role": "service_role"},
        {"role": "anon"},
        {"role": None},
        {"nbf": 4_000_000_000},
        {"nbf": "x"},
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(auth_server, ec_key, wrong):
    token = jwt.encode(claims(**wrong), ec_key, "ES256", headers={"kid": "ec"})

    with pytest.raises(Unauthorized):
        await auth_server.verifier().verify(token)


def unsigned(header: bytes, payload: bytes) -> str:
    return b".".join(map(jwt.utils.base64url_encode, (header, payload, b"x"))).decode()


HUGE = b"1" + b"0" * 400
DEEP = b"[" * 3000 + b"]" * 3000


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b'{"alg":["HS256"]}', b"{}"),
        (b'{"alg":{"HS256":1}}', b"{}"),
        (b'{"alg":null}', b"{}"),
        (b'{"alg":"HS256","kid":["x"]}', b"{}"),
        (b'{"alg":"ES256","kid":{"a":1}}', b"{}"),
        (b'{"alg":"HS256","x":' + DEEP[:2000] + b"}", b"{}"),
        (b'{"alg":"HS256","crit":["x"]}', b"{}"),
        (b"[" * 2000, b"{}"),
        (b'{"alg":"HS256"}', b'{"exp":' + HUGE + b"}"),
        (b'{"alg":"HS256"}', b'{"exp":1e999}'),
        (b'{"alg":"HS256"}', DEEP[:5000]),
        (b'{"alg":"HS256"}', b"\xff\xfe"),
        (b"\xff", b"{}"),
        (b"{", b"}"),
    ],
)
async def test_a_token_that_is_wrong_at_any_depth_is_refused(auth_server, header, payload):
    with pytest.raises(Unauthorized):
        await auth_server.verifier(secret=SECRET).verify(unsigned(header, payload))


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": 10**400},
        {"exp": -1},
        {"exp": True},
        {"exp": [1]},
        {"nbf": 10**400},
        {"nbf": [1]},
        {"sub": ["x"]},
        {"sub": {"a": 1}},
        {"sub": 10**400},
        {"aud": {"authenticated": 1}},
        {"aud": [["authenticated"]]},
        {"aud": 5},
        {"iss": [ISSUER]},
        {"role": ["authenticated"]},
    ],
)
async def test_a_signed_claim_of_another_type_is_refused(auth_server, ec_key, wrong):
    payload = json.dumps(claims() | wrong).encode()
    token = jwt.api_jws.encode(payload, ec_key, "ES256", headers={"kid": "ec"})

    with pytest.raises(Unauthorized):
        await auth_server.verifier().verify(token)


async def test_signed_nonsense_in_an_unknown_claim_is_no_server_error(auth_server, ec_key):
    payload = json.dumps(claims()).encode()[:-1] + b',"user_metadata":' + b"[" * 2000 + b"]" * 2000 + b"}"
    token = jwt.api_jws.encode(payload, ec_key, "ES256", headers={"kid": "ec"})

    with pytest.raises(Unauthorized):
        await auth_server.verifier().verify(token)


async def test_a_token_that_is_too_long_is_refused_unread(auth_server):
    with pytest.raises(Unauthorized, match="KiB"):
        await auth_server.verifier(secret=SECRET).verify("." * 100_000)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "...", "eyJhbGciOiJub25lIn0.e30.", "é.é.é"])
async def test_what_is_no_token_is_refused(auth_server, token):
    with pytest.raises(Unauthorized):
        await auth_server.verifier(secret=SECRET).verify(token)


async def test_a_public_key_is_never_taken_for_a_secret(auth_server, rsa_key):
    """The classic confusion: HS256 keyed with the published public key."""
    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header = jwt.utils.base64url_encode(b'{"alg":"HS256","kid":"rsa","typ":"JWT"}')
    body = jwt.utils.base64url_encode(json.dumps(claims()).encode())
    import hashlib
    import hmac

    signature = jwt.utils.base64url_encode(hmac.digest(public, header + b"." + body, hashlib.sha256))

    for secret in (None, SECRET):
        with pytest.raises(Unauthorized):
            await auth_server.verifier(secret=secret).verify(b".".join((header, body, signature)).decode())


async def test_a_key_is_not_used_with_another_algorithm(auth_server, ec_key):
    token = jwt.encode(claims(), ec_key, "ES256", headers={"kid": "rsa"})

    with pytest.raises(Unauthorized):
        await auth_server.verifier().verify(token)


async def test_hs256_is_refused_without_a_configured_secret(auth_server, token_for):
    token = token_for(USER, 60, iss=ISSUER)

    with pytest.raises(Unauthorized):
        await auth_server.verifier().verify(token)
    assert (await auth_server.verifier(secret=SECRET).verify(token)).user_id == USER
    assert auth_server.asked == 0


async def test_fifty_cold_requests_fetch_the_keys_once(auth_server, ec_key):
    verifier = auth_server.verifier()
    token = jwt.encode(claims(), ec_key, "ES256", headers={"kid": "ec"})

    await asyncio.gather(*(verifier.verify(token) for _ in range(50)))

    assert auth_server.asked == 1


async def test_without_any_key_the_answer_is_unavailable_not_unauthorized(auth_server, ec_key):
    auth_server.is_down = True
    verifier = auth_server.verifier()
    token = jwt.encode(claims(), ec_key, "ES256", headers={"kid": "ec"})

    refusals = await asyncio.gather(*(verifier.verify(token) for _ in range(20)), return_exceptions=True)

    assert {r.kind for r in refusals} == {Kind.UNAVAILABLE}
    assert auth_server.asked == 1


async def test_the_keys_are_had_as_soon_as_the_auth_server_is_back_and_the_cooldown_over(auth_server, ec_key):
    verifier = auth_server.verifier()
    token = jwt.encode(claims(), ec_key, "ES256", headers={"kid": "ec"})
    auth_server.is_down = True
    with pytest.raises(Refused):
        await verifier.verify(token)

    auth_server.is_down = False
    auth_server.now += COOLDOWN_S + 1

    assert (await verifier.verify(token)).user_id == USER


async def test_known_keys_outlive_an_outage_of_the_auth_server_for_an_hour(auth_server):
    keys = auth_server.signing_keys()
    await keys.find("ec")
    auth_server.is_down = True

    auth_server.now += STALE_S - 1
    assert (await keys.find("ec")).key_id == "ec"
    await keys._background
    auth_server.now += COOLDOWN_S + 2
    with pytest.raises(Refused) as refusal:
        await keys.find("ec")
    assert refusal.value.kind is Kind.UNAVAILABLE


async def test_old_keys_are_refreshed_behind_the_request(auth_server, ec_key):
    keys = auth_server.signing_keys()
    await keys.find("ec")
    auth_server.keys = [jwk(ec_key, "new", "ES256")]

    auth_server.now += FRESH_S + 1
    assert (await keys.find("ec")).key_id == "ec"
    await keys._background

    assert (await keys.find("new")).key_id == "new"
    assert auth_server.asked == 2


async def test_unknown_key_ids_cost_one_fetch_per_cooldown(auth_server):
    keys = auth_server.signing_keys()
    await keys.find("ec")
    auth_server.now += COOLDOWN_S + 1

    for number in range(30):
        with pytest.raises(jwt.InvalidTokenError):
            await keys.find(f"garbage-{number}")

    assert auth_server.asked == 2


async def test_an_empty_key_set_is_an_answer(auth_server):
    auth_server.keys = []
    with pytest.raises(jwt.InvalidTokenError):
        await auth_server.signing_keys().find("ec")


async def test_keys_of_a_kind_we_do_not_know_cost_no_others(auth_server, ec_key):
    auth_server.keys = [{"kty": "new"}, {}, jwk(ec_key, "ec", "ES256")]
    assert (await auth_server.signing_keys().find("ec")).key_id == "ec"


@pytest.mark.parametrize("document", [b"", b"<html>", b"[]", b'{"keys": 3}', b"\xff"])
async def test_a_document_that_is_no_key_set_is_an_outage(document):
    async def fetch_it(_url):
        return document

    with pytest.raises(Refused) as refusal:
        await SigningKeys("https://auth.test", fetch=fetch_it).find("ec")
    assert refusal.value.kind is Kind.UNAVAILABLE


async def test_the_key_set_is_fetched_over_http(ec_key):
    async def show(_request):
        return aiohttp.web.json_response({"keys": [jwk(ec_key, "ec", "ES256")]})

    application = aiohttp.web.Application()
    application.router.add_get("/jwks.json", show)
    runner = aiohttp.web.AppRunner(application)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    keys = SigningKeys(f"http://127.0.0.1:{port}/jwks.json", fetch=fetch)
    assert (await keys.find("ec")).key_id == "ec"
    missing = SigningKeys(f"http://127.0.0.1:{port}/other", fetch=fetch)
    with pytest.raises(Refused):
        await missing.find("ec")
    await runner.cleanup()


def test_the_development_secret_is_used_only_when_nothing_is_configured(tmp_path):
    def secret(**environment):
        return make_verifier(read_settings({}, {"VYX_DATA_DIR": str(tmp_path), **environment}))._secret

    assert secret() == development_secret(tmp_path)
    assert secret(VYX_JWT_SECRET=SECRET) == SECRET
    assert secret(VYX_JWKS_URL="https://auth.test/jwks.json") is None
    assert secret(SUPABASE_URL="https://project.supabase.co") is None


async def test_the_issuer_follows_from_the_supabase_address(tmp_path, auth_server, ec_key):
    settings = read_settings(
        {}, {"VYX_DATA_DIR": str(tmp_path), "SUPABASE_URL": "https://project.supabase.co"}
    )
    verifier = make_verifier(settings)
    verifier._keys = auth_server.signing_keys()

    token = jwt.encode(claims(), ec_key, "ES256", headers={"kid": "ec"})
    assert (await verifier.verify(token)).user_id == USER
    foreign = jwt.encode(
        claims(iss="https://other.supabase.co/auth/v1"), ec_key, "ES256", headers={"kid": "ec"}
    )
    with pytest.raises(Unauthorized):
        await verifier.verify(foreign)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dXNlcg==", "token"])
async def test_a_request_without_a_bearer_token_is_challenged(http, kind, header):
    headers = {} if header is None else {"authorization": header}

    response = await http.get("/api/v1/me", headers=headers)

    assert response.status_code == 401
    assert kind(response) == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"


async def test_an_expired_token_is_challenged_with_the_reason(http, make_user, kind):
    response = await http.get("/api/v1/me", headers=make_user(lifetime_s=-1).headers)

    assert response.status_code == 401
    assert kind(response) == "unauthorized"
    assert response.headers["www-authenticate"] == (
        'Bearer error="invalid_token", error_description="the token has expired"'
    )


async def test_a_user_without_a_row_is_told_so(http, kind, token_for):
    token = token_for(uuid.uuid4(), 60)

    response = await http.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})

    assert response.status_code == 401
    assert kind(response) == "unauthorized"
    assert "auth.users" in response.json()["detail"]


async def test_a_user_deleted_meanwhile_can_write_nothing(http, user, connection, kind):
    assert (await http.get("/api/v1/me", headers=user.headers)).status_code == 200
    connection.execute("delete from auth.users")

    response = await http.post("/api/v1/traders", json={"name": "n", "filter": "f"}, headers=user.headers)

    assert response.status_code == 401
    assert kind(response) == "unauthorized"


async def test_a_user_deleted_meanwhile_reads_nothing(http, user, connection, eventually):
    assert (await http.get("/api/v1/me", headers=user.headers)).status_code == 200
    connection.execute("delete from auth.users")

    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while (response := await http.get("/api/v1/me", headers=user.headers)).status_code == 200:
            await asyncio.sleep(0.005)
    assert response.status_code == 401


async def test_absence_is_not_remembered(service, connection):
    users, user_id = KnownUsers(service.pool), uuid.uuid4()
    with pytest.raises(Unauthorized):
        await users.check(user_id)

    connection.execute("insert into auth.users (id) values (%s)", (user_id,))

    await users.check(user_id)


async def test_without_signing_keys_the_api_says_unavailable(service, http, auth_server, ec_key, kind):
    auth_server.is_down = True
    service.verifier = auth_server.verifier()
    token = jwt.encode(claims(), ec_key, "ES256", headers={"kid": "ec"})

    response = await http.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})

    assert response.status_code == 503
    assert kind(response) == "unavailable"
    assert int(response.headers["retry-after"]) >= 1
