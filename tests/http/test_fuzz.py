"""
Whatever is sent to whichever endpoint, the answer is never a 500, and every refusal is a problem.
"""

from __future__ import annotations

import asyncio
import json
import re

import hypothesis
import pytest
from hypothesis import strategies as st

from app.http import exports
from app.http.application import ENDPOINTS

TEXT = st.text(max_size=30)
TRADER = "«trader»"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXT | JSON,
        "filter": TEXT | JSON,
        "description": TEXT | JSON,
        "symbols": st.lists(TEXT, max_size=3) | JSON,
        "frequency": st.sampled_from(["every_bar", "on_enter", {"cooldown_s": 60.0}, {"cooldown_s": 2**70}])
        | JSON,
    },
)
NUMBERS = st.integers(-(2**70), 2**70).map(str)
INSTANTS = st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat())
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["limit", "cursor", "since", "until", "trader_id", "symbol", "timeframe"]) | TEXT,
        st.sampled_from(["1", "1000", "BTCUSDT", "1m", "2024-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"])
        | NUMBERS
        | INSTANTS
        | TEXT,
    ),
    max_size=4,
)
BODIES = (
    FIELDS.map(lambda f: json.dumps(f).encode())
    | JSON.map(lambda j: json.dumps(j).encode())
    | st.binary(max_size=60)
)
REQUESTS = st.tuples(
    # a deleted account would answer 401 to all the rest
    st.sampled_from(
        [e for e in ENDPOINTS if not e.path.endswith("/stream") and e.handler is not exports.delete_me]
    ),
    st.sampled_from([TRADER, TRADER, "00000000-0000-4000-8000-000000000000"])
    | st.text("abc-%/.", min_size=1, max_size=9),
    QUERIES,
    BODIES,
    st.fixed_dictionaries(
        {},
        optional={
            "prefer": st.text("wait=0;,1 ", max_size=9).filter(lambda p: "1" not in p),
            "idempotency-key": st.text('ab \t"', max_size=3),
            "accept": st.text("textcsv/*,;q=.1", max_size=12)
            | st.sampled_from(["text/csv", "application/vnd.apache.parquet"]),
            "if-none-match": st.text('*W/",ab', max_size=6),
        },
    ),
)


@pytest.fixture
def limitless(monkeypatch):
    from datetime import timedelta

    from app.store.rate_limits import Limit

    for name in ("LIFECYCLE", "SAVE"):
        monkeypatch.setattr(f"app.lifecycle.{name}", Limit(name.lower(), 10**6, timedelta(seconds=60)))


async def test_no_request_is_answered_with_a_500(http, user, make_trader, limitless, service):
    service.reads._calls_max = 10**6
    trader = str(make_trader(user))
    loop = asyncio.get_running_loop()

    async def send(request):
        endpoint, path_id, query, body, headers = request
        path = re.sub(r"{\w+}", lambda _: trader if path_id == TRADER else path_id, endpoint.path)
        response = await http.request(
            endpoint.method, path, params=query, content=body, headers=user.headers | headers
        )
        assert response.status_code != 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["type"].startswith("https://vyx.dev/problems/")

    @hypothesis.settings(max_examples=250, deadline=None, database=None)
    @hypothesis.given(REQUESTS)
    def attack(request):
        asyncio.run_coroutine_threadsafe(send(request), loop).result(10)

    await asyncio.to_thread(attack)
