"""
The feed's promise: whoever writes how, a reader sees each row once, in order, and none is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time

import psycopg
import pytest

from app.http import feed as feed_module
from app.http.feed import PENDING_MAX, Feed, Subscription, Watermark
from app.http.limits import CallLimit
from app.http.metrics import Metrics
from app.store import feed as store


class NaiveReader:
    """What everyone writes first: rows with an id beyond the last one seen."""

    def __init__(self, connection):
        self._connection = connection
        self.seen = []

    def poll(self):
        rows = self._connection.execute(
            "select id from public.signals where id > %s order by id", (self.seen[-1] if self.seen else 0,)
        ).fetchall()
        self.seen += [row[0] for row in rows]


def ids_taken(subscription):
    return [event_id for event_id, _ in subscription.take()]


@pytest.fixture
async def reader(dsn):
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    feed = Feed(dsn, Metrics())
    feed.follow = lambda: feed.poll(connection)
    yield feed
    await connection.close()


@pytest.fixture
def writers(dsn):
    """Two connections outside autocommit: what they insert is open until they commit."""
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        yield first, second


async def test_a_row_committed_after_a_later_one_is_lost_by_a_naive_reader_and_not_by_ours(
    reader, writers, user, make_trader, add_signal, connection
):
    trader = make_trader(user)
    naive = NaiveReader(connection)
    await reader.follow()
    subscription = reader.attach(user.id)

    early = add_signal(user, trader, on=writers[0])  # draws the lower id, stays open
    late = add_signal(user, trader, on=writers[1])
    writers[1].commit()
    naive.poll()
    await reader.follow()
    while_open = ids_taken(subscription)
    writers[0].commit()
    naive.poll()
    await reader.follow()

    assert early < late
    assert while_open == []
    assert naive.seen == [late]
    assert ids_taken(subscription) == [early, late]


async def test_a_rolled_back_writer_holds_nothing_back(reader, writers, user, make_trader, add_signal):
    trader = make_trader(user)
    await reader.follow()
    subscription = reader.attach(user.id)

    add_signal(user, trader, on=writers[0])
    late = add_signal(user, trader)
    await reader.follow()
    writers[0].rollback()
    await reader.follow()

    assert ids_taken(subscription) == [late]


async def test_writers_that_came_later_do_not_delay_a_candidate(
    reader, writers, user, make_trader, add_signal
):
    trader = make_trader(user)
    await reader.follow()
    subscription = reader.attach(user.id)

    first = add_signal(user, trader, on=writers[0])
    second = add_signal(user, trader)
    await reader.follow()
    third = add_signal(user, trader, on=writers[1])  # open, but drew its id after the candidate
    writers[0].commit()
    await reader.follow()

    assert ids_taken(subscription) == [first, second]
    writers[1].commit()
    await reader.follow()
    await reader.follow()
    assert ids_taken(subscription) == [third]


async def test_state_changes_and_signals_come_in_one_order(reader, user, make_trader, add_signal, connection):
    trader = make_trader(user)
    await reader.follow()
    subscription = reader.attach(user.id)

    connection.execute("select public.start_trader(%s)", (trader,))
    add_signal(user, trader)
    connection.execute("select public.stop_trader(%s)", (trader,))
    await reader.follow()

    events = subscription.take()
    kinds = [chunk.split(b"event: ")[1].split(b"\n")[0] for _, chunk in events]
    assert kinds == [b"trader", b"signal", b"trader", b"trader"]
    assert [i for i, _ in events] == sorted(i for i, _ in events)


async def test_only_a_users_own_events_reach_them(reader, user, make_user, make_trader, add_signal):
    stranger = make_user()
    mine, theirs = make_trader(user), make_trader(stranger)
    await reader.follow()
    subscription = reader.attach(user.id)

    add_signal(stranger, theirs)
    own = add_signal(user, mine)
    await reader.follow()

    assert ids_taken(subscription) == [own]


async def test_who_attaches_while_a_page_is_read_misses_nothing(
    reader, user, make_user, make_trader, add_signal, monkeypatch
):
    """The page was read without the newcomer's rows; it is read again before the horizon moves."""
    newcomer = make_user()
    mine, theirs = make_trader(user), make_trader(newcomer)
    await reader.follow()
    reader.attach(user.id)
    joined = []
    read_feed = store.read_feed

    async def read_and_let_someone_in(*args, **parameters):
        rows = await read_feed(*args, **parameters)
        if not joined:
            joined.append((reader.horizon, reader.attach(newcomer.id)))
        return rows

    monkeypatch.setattr(store, "read_feed", read_and_let_someone_in)
    add_signal(user, mine)
    theirs_id = add_signal(newcomer, theirs)
    await reader.follow()

    horizon, subscription = joined[0]
    assert horizon < theirs_id
    assert ids_taken(subscription) == [theirs_id]


async def test_more_rows_than_a_page_are_all_published(reader, user, make_trader, add_signal, monkeypatch):
    monkeypatch.setattr(feed_module, "PAGE_ROWS", 3)
    trader = make_trader(user)
    await reader.follow()
    subscription = reader.attach(user.id)

    ids = [add_signal(user, trader) for _ in range(10)]
    await reader.follow()

    assert ids_taken(subscription) == ids
    assert reader.horizon == ids[-1]


async def test_the_burst_of_one_slot_does_not_cut_a_client_that_takes_it(
    reader, user, make_trader, add_signal, connection
):
    trader = make_trader(user)
    first = add_signal(user, trader)
    await reader.follow()
    subscription = reader.attach(user.id)
    taken = []

    async def take_all():
        while subscription.ended is None and len(taken) < 2 * PENDING_MAX:
            await subscription.wait(5)
            taken.extend(ids_taken(subscription))

    connection.execute(
        "insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)"
        " select trader_id, user_id, 'B' || n, timeframe, triggered_at, price, plan_hash, epoch, screened_at"
        " from public.signals cross join generate_series(1, %s) n where id = %s",
        (2 * PENDING_MAX, first),
    )
    client = asyncio.create_task(take_all())
    await reader.follow()
    await client

    assert subscription.ended is None
    assert taken == sorted(taken)
    assert len(taken) == 2 * PENDING_MAX


async def test_what_was_written_before_the_first_poll_is_not_published(reader, user, make_trader, add_signal):
    subscription = reader.attach(user.id)
    last = add_signal(user, make_trader(user))

    await reader.follow()

    assert ids_taken(subscription) == []
    assert reader.horizon == last


async def test_a_deleted_trader_does_not_move_the_horizon_back(
    reader, user, make_trader, add_signal, connection
):
    kept, deleted = make_trader(user), make_trader(user)
    add_signal(user, kept)
    last = add_signal(user, deleted)
    await reader.follow()

    connection.execute("delete from public.traders where id = %s", (deleted,))
    await reader.follow()

    assert reader.horizon == last


async def test_concurrent_writers_with_delayed_commits_lose_nothing(
    dsn, reader, user, make_trader, add_signal
):
    """Eight writers, a fifth of them rolling back, each holding its transaction open for up to 4 ms."""
    trader = make_trader(user)
    await reader.follow()
    subscription = reader.attach(user.id)
    committed, done, seed = [], threading.Event(), random.randrange(2**32)
    print("seed", seed)

    def write(number):
        chance = random.Random(seed + number)
        with psycopg.connect(dsn) as connection:
            for _ in range(40):
                new = [add_signal(user, trader, on=connection) for _ in range(chance.randint(1, 3))]
                done.wait(chance.random() * 0.004)
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    committed.extend(new)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        await reader.follow()
        seen += ids_taken(subscription)
    for thread in threads:
        thread.join()
    for _ in range(2):
        await reader.follow()
        seen += ids_taken(subscription)

    assert seen == sorted(committed)


class TestWatermark:
    def test_without_writers_the_horizon_is_the_position(self):
        watermark = Watermark()
        watermark.observe(7, frozenset())
        assert watermark.horizon == 7

    def test_with_a_writer_the_first_horizon_waits_for_its_end(self):
        watermark = Watermark()
        watermark.observe(7, frozenset({"3/1"}))
        assert watermark.horizon is None
        assert watermark.is_waiting
        watermark.observe(9, frozenset({"4/1"}))
        assert watermark.horizon == 7

    def test_the_horizon_never_moves_back(self):
        watermark = Watermark()
        watermark.observe(7, frozenset())
        watermark.observe(5, frozenset())
        assert watermark.horizon == 7

    def test_a_writer_without_a_new_row_opens_no_candidate(self):
        watermark = Watermark()
        watermark.observe(7, frozenset())
        watermark.observe(7, frozenset({"3/1"}))
        assert not watermark.is_waiting

    def test_a_candidate_ends_only_with_all_of_its_writers(self):
        watermark = Watermark()
        watermark.observe(1, frozenset())
        watermark.observe(5, frozenset({"3/1", "4/1"}))
        watermark.observe(6, frozenset({"4/1", "5/1"}))
        assert watermark.horizon == 1
        watermark.observe(8, frozenset({"5/1"}))
        assert watermark.horizon == 5


class TestSubscription:
    async def test_a_listener_that_falls_behind_is_ended_not_buffered(self, user):
        subscription = Subscription(user.id)
        for event_id in range(PENDING_MAX + 1):
            subscription.offer(event_id, b"")

        assert subscription.ended == "too_slow"
        assert len(subscription.take()) == PENDING_MAX

    async def test_the_first_reason_to_end_stays(self, user):
        subscription = Subscription(user.id)
        subscription.end("shutdown")
        subscription.end("gone")
        assert subscription.ended == "shutdown"

    async def test_a_closed_feed_ends_who_comes_later(self, dsn, user):
        feed = Feed(dsn, Metrics())
        feed.close("shutdown")
        assert feed.attach(user.id).ended == "shutdown"


async def test_the_stream_tells_a_signal_as_the_list_does(
    replica, user, make_trader, add_signal, open_stream, connection
):
    trader = make_trader(user)
    async with replica() as (_, url, _service), open_stream(url, user) as stream:
        add_signal(user, trader)
        connection.execute("notify vyx_feed")
        event = await stream.next()
        async with stream_session(url, user) as get:
            listed = await get("/api/v1/signals")

    assert event["event"] == "signal"
    assert json.loads(event["data"]) == listed["items"][0]
    assert int(event["id"]) == listed["items"][0]["id"]


def stream_session(url, user):
    import contextlib

    import aiohttp

    @contextlib.asynccontextmanager
    async def session():
        async with aiohttp.ClientSession(url, headers=user.headers) as client:

            async def get(path):
                async with client.get(path) as response:
                    return await response.json()

            yield get

    return session()


async def test_a_trader_event_names_both_states(replica, user, make_trader, open_stream, connection):
    trader = make_trader(user)
    async with replica() as (_, url, _service), open_stream(url, user) as stream:
        connection.execute("select public.start_trader(%s)", (trader,))
        connection.execute("notify vyx_feed")
        event = await stream.next()

    body = json.loads(event["data"])
    assert event["event"] == "trader"
    assert body["id"] == int(event["id"])
    assert body["trader_id"] == str(trader)
    assert (body["from"], body["state"], body["reason"], body["version"]) == (
        "stopped",
        "starting",
        "start",
        1,
    )
    assert body["at"].endswith("Z")


async def test_a_lost_hint_costs_a_second_not_the_event(replica, user, make_trader, add_signal, open_stream):
    trader = make_trader(user)
    async with replica() as (_, url, _service), open_stream(url, user) as stream:
        new = add_signal(user, trader)
        assert int((await stream.next())["id"]) == new


async def test_a_client_hopping_between_replicas_sees_each_event_once_in_order(
    dsn, replica, user, make_trader, add_signal, open_stream
):
    trader = make_trader(user)
    committed, stop = [], threading.Event()

    def write(seed):
        chance = random.Random(seed)
        with psycopg.connect(dsn) as connection:
            for _ in range(50):
                new = add_signal(user, trader, on=connection)
                stop.wait(chance.random() * 0.01)
                if chance.random() < 0.1:
                    connection.rollback()
                    continue
                connection.commit()
                committed.append(new)
                connection.execute("notify vyx_feed")
                connection.commit()

    first = add_signal(user, trader)
    seen = [first]
    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    async with replica() as (_, one, _a), replica() as (_, two, _b):
        for thread in threads:
            thread.start()
        hop = 0
        while any(thread.is_alive() for thread in threads) or set(committed) - set(seen):
            hop += 1
            async with open_stream((one, two)[hop % 2], user, last_event_id=seen[-1]) as stream:
                for _ in range(random.randint(1, 12)):
                    if not (any(t.is_alive() for t in threads) or set(committed) - set(seen)):
                        break
                    event = await stream.next()
                    assert event["event"] == "signal", event
                    seen.append(int(event["id"]))
    for thread in threads:
        thread.join()

    assert hop > 3
    assert seen[1:] == sorted(committed)


async def test_a_backlog_of_many_pages_is_resumed_completely(
    replica, user, make_trader, add_signal, open_stream, monkeypatch
):
    monkeypatch.setattr("app.http.stream.BACKLOG_ROWS", 4)
    trader = make_trader(user)
    ids = [add_signal(user, trader) for _ in range(14)]

    async with replica() as (_, url, _service), open_stream(url, user, last_event_id=ids[0]) as stream:
        seen = [int((await stream.next())["id"]) for _ in ids[1:]]

    assert seen == ids[1:]


async def test_the_cursor_parameter_resumes_like_the_header(
    replica, user, make_trader, add_signal, open_stream
):
    trader = make_trader(user)
    ids = [add_signal(user, trader) for _ in range(3)]

    async with (
        replica() as (_, url, _service),
        open_stream(url, user, params={"cursor": str(ids[0])}) as stream,
    ):
        assert [int((await stream.next())["id"]) for _ in range(2)] == ids[1:]


@pytest.mark.parametrize("cursor", ["garbage", "-1", "1e3", "", "9" * 19, "9" * 40, "99999999"])
async def test_a_cursor_that_cannot_be_resumed_is_answered_with_a_reset_and_goes_on_live(
    replica, user, make_trader, add_signal, open_stream, cursor
):
    trader = make_trader(user)
    last = add_signal(user, trader)

    async with replica() as (_, url, _service), open_stream(url, user, last_event_id=cursor) as stream:
        reset = await stream.next()
        new = add_signal(user, trader)
        event = await stream.next()

    assert reset["event"] == "reset"
    assert json.loads(reset["data"])["resume_from"] == last
    assert json.loads(reset["data"])["reason"]
    assert int(event["id"]) == new


async def test_a_pruned_cursor_is_answered_with_a_reset(
    replica, user, make_trader, add_signal, open_stream, connection
):
    trader = make_trader(user)
    ids = [add_signal(user, trader) for _ in range(3)]
    connection.execute("update vyx.feed_floors set id = %s", (ids[1],))

    async with replica() as (_, url, _service):
        async with open_stream(url, user, last_event_id=ids[0]) as stream:
            pruned = await stream.next()
        async with open_stream(url, user, last_event_id=ids[1]) as stream:
            kept = await stream.next()

    assert pruned["event"] == "reset"
    assert int(kept["id"]) == ids[2]


async def test_someone_elses_newest_id_is_no_cursor_of_mine(
    replica, user, make_user, make_trader, add_signal, open_stream
):
    """A replica that is behind cannot tell it from a foreign one, so it must look at whose row it is."""
    stranger = make_user()
    theirs = make_trader(stranger)
    async with replica() as (_, url, service):
        service.feed.horizon = 0
        service.feed._watermark.observe(
            2**40, frozenset({"9/9"})
        )  # a writer that never ends: the horizon stays
        foreign = add_signal(stranger, theirs)
        async with open_stream(url, user, last_event_id=foreign) as stream:
            assert (await stream.next())["event"] == "reset"


async def test_a_client_ahead_of_this_replica_is_resumed_not_reset(
    replica, user, make_trader, add_signal, open_stream
):
    trader = make_trader(user)
    async with replica() as (_, url, service):
        ahead = add_signal(user, trader)
        service.feed.horizon = ahead - 1
        service.feed._watermark.horizon = ahead - 1
        async with open_stream(url, user, last_event_id=ahead) as stream:
            new = add_signal(user, trader)
            event = await stream.next()

    assert event["event"] == "signal"
    assert int(event["id"]) == new


async def test_at_the_end_of_the_process_every_stream_is_told(replica, user, open_stream):
    async with (
        replica() as (server, url, _service),
        open_stream(url, user) as one,
        open_stream(url, user) as two,
    ):
        began_at = time.monotonic()
        server.stop()
        for stream in (one, two):
            rest = await stream.rest()
            assert [event["event"] for event in rest] == ["bye"]
            assert "shutting down" in json.loads(rest[0]["data"])["reason"]
            assert 500 <= int(rest[0]["retry"]) <= 5000
        assert time.monotonic() - began_at < 2


async def test_a_stream_ends_with_its_token(replica, make_user, open_stream):
    user = make_user(lifetime_s=2)

    async with replica() as (_, url, service), open_stream(url, user) as stream:
        rest = await stream.rest()

    assert [event["event"] for event in rest] == ["bye"]
    assert "expired" in json.loads(rest[0]["data"])["reason"]
    assert service.streams.open_count == 0


async def test_an_idle_stream_is_pinged(replica, user, open_stream):
    async with replica() as (_, url, service):
        service.streams.ping_s = 0.02
        async with open_stream(url, user) as stream:
            assert await stream.next() == {"comment": "ping"}


async def test_a_user_may_open_so_many_streams_and_no_more(replica, user, make_user, open_stream, connection):
    import aiohttp

    connection.execute("update public.tiers set max_streams = 2")
    async with replica() as (_, url, _service), open_stream(url, user), open_stream(url, user):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/api/v1/stream", headers=user.headers) as third,
        ):
            body = await third.json()
        async with open_stream(url, make_user()):
            pass

    assert third.status == 429
    assert body["type"].endswith("/rate-limited")
    assert int(third.headers["retry-after"]) == body["retry_after_s"]


async def test_streams_are_opened_only_so_often(replica, user):
    import aiohttp

    async with replica() as (_, url, service), aiohttp.ClientSession(headers=user.headers) as session:
        service.streams.openings = CallLimit(2, "streams are opened a minute")
        statuses = []
        for _ in range(3):
            async with session.get(f"{url}/api/v1/stream") as answer:
                statuses.append(answer.status)

    assert statuses == [200, 200, 429]


async def test_the_streams_of_a_deleted_user_end_with_a_word(
    replica, user, make_user, open_stream, connection
):
    other = make_user()
    async with replica() as (_, url, service), open_stream(url, user) as stream, open_stream(url, other):
        connection.execute("delete from auth.users where id = %s", (user.id,))
        rest = await stream.rest()

        assert [event["event"] for event in rest] == ["bye"]
        assert "does not exist" in rest[0]["data"]
        assert service.streams.open_count == 1


async def test_a_user_deleted_while_nobody_listened_is_noticed_on_the_way_back(
    replica, user, open_stream, connection
):
    async with replica() as (_, url, _service), open_stream(url, user) as stream:
        connection.execute(
            """with gone as (delete from auth.users where id = %s returning id)
               select pg_terminate_backend(a.pid) from pg_stat_activity a, gone where a.application_name = 'vyx feed'""",
            (user.id,),
        )
        rest = await stream.rest()

    assert [event["event"] for event in rest] == ["bye"]


async def test_a_client_that_goes_away_is_forgotten(replica, user, open_stream, eventually):
    async with replica() as (_, url, service):
        async with open_stream(url, user):
            assert service.streams.open_count == 1
        await eventually(lambda: not service.streams.open_count)
        assert service.feed._subscriptions == {}


async def test_the_reader_reconnects_and_goes_on_where_it_was(
    replica, user, make_trader, add_signal, open_stream, connection
):
    trader = make_trader(user)
    async with replica() as (_, url, service), open_stream(url, user) as stream:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'vyx feed'"
        )
        while_away = add_signal(user, trader)
        event = await stream.next()

    assert int(event["id"]) == while_away
    assert service.metrics.feed_reconnects._value.get() == 1


async def test_streams_opened_at_once_are_limited_too(replica, user, connection):
    import asyncio

    import aiohttp

    connection.execute("update public.tiers set max_streams = 3")
    async with replica() as (_, url, _service), aiohttp.ClientSession(headers=user.headers) as session:
        answers = await asyncio.gather(*(session.get(f"{url}/api/v1/stream?cursor=0") for _ in range(12)))
        for answer in answers:
            answer.close()

    assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 9


async def test_asking_for_a_streams_head_opens_none(http, service, user):
    response = await http.head("/api/v1/stream", headers=user.headers)

    assert response.status_code == 200
    assert service.streams.open_count == 0
