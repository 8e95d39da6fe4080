-- greatest_visible_id --
-- Step 1 of a poll: the position. Not the sequence: while nextval() writes WAL its row says 32 more, and reading it lost rows.
select greatest((select max(e.id) from public.trader_events e), (select max(s.id) from public.signals s), 0);

-- feed_writers --
-- Step 2 of a poll: who may still commit an id at or below that position (holders of the shared lock 7002, 1).
select l.virtualtransaction from pg_catalog.pg_locks l
 where l.locktype = 'advisory' and l.classid = 7002 and l.objid = 1 and l.objsubid = 2 and l.mode = 'ShareLock' and l.granted
   and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database());

-- read_feed --
-- What happened to these users in (after, through], in feed order. Final: no row will ever be added there.
(select e.id, e.user_id, e.trader_id, e.from_state::text, e.to_state::text, e.reason, e.version, e.at,
        null as symbol, null as timeframe, null::timestamptz as triggered_at, null::float8 as price, null::jsonb as shown,
        null::timestamptz as screened_at, null::timestamptz as created_at, null::boolean as late, null::boolean as forming
   from public.trader_events e where e.user_id = any (%(user_ids)s) and e.id > %(after)s and e.id <= %(through)s order by e.id limit %(limit)s)
union all
(select s.id, s.user_id, s.trader_id, null, null, null, null, null,
        s.symbol, s.timeframe::text, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at, s.late, s.forming
   from public.signals s where s.user_id = any (%(user_ids)s) and s.id > %(after)s and s.id <= %(through)s order by s.id limit %(limit)s)
order by id limit %(limit)s;

-- cursor_exists --
-- Whether a cursor beyond this replica's horizon is the id of a real row of this user.
select exists (select from public.trader_events e where e.id = %(cursor)s and e.user_id = %(user_id)s)
    or exists (select from public.signals s where s.id = %(cursor)s and s.user_id = %(user_id)s);

-- feed_floor --
-- Up to this id the feed has been pruned.
select f.id from vyx.feed_floors f;

-- prune_events --
-- So many old trader events, and the feed begins after the newest of them. Starts and stops stay while leases of their time do: they
-- say which gaps of the coverage are pauses.
with gone as (
  delete from public.trader_events e using (
    select o.id from public.trader_events o
     where o.at < %(before)s and (o.to_state not in ('starting', 'stopping', 'stopped') or o.at < %(leases_before)s)
     order by o.id limit %(limit)s) old
   where e.id = old.id
  returning e.id)
select count(*), vyx.raise_feed_floor(max(g.id)) from gone g;
