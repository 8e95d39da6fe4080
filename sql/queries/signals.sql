-- list_signals --
-- A page of a user's signals, oldest first, after (after_at, after_id) when given: at most so many rows, and about so many bytes.
select p.id, p.trader_id, p.symbol, p.timeframe, p.triggered_at, p.price, p.shown, p.screened_at, p.created_at, p.late, p.forming, p.has_next
  from (select l.*, lead(true) over pages is not null as has_next, sum(l.bytes) over pages - l.bytes as bytes_before
          from (select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at,
                       s.late, s.forming, 300 + pg_column_size(s.shown) as bytes
                  from public.signals s
                 where s.user_id = %(user_id)s
                   and (%(trader_id)s::uuid is null or s.trader_id = %(trader_id)s)
                   and (%(symbol)s::text is null or s.symbol = %(symbol)s)
                   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
                   and (%(from)s::timestamptz is null or s.triggered_at >= %(from)s)
                   and (%(until)s::timestamptz is null or s.triggered_at <= %(until)s)
                   and (%(after_at)s::timestamptz is null or (s.created_at, s.id) > (%(after_at)s, %(after_id)s::bigint))
                 order by s.created_at, s.id
                 limit %(limit)s + 1) l
        window pages as (order by l.created_at, l.id)) p
 where p.bytes_before < %(bytes_max)s
 order by p.created_at, p.id
 limit %(limit)s;

-- list_newest_signals --
-- The same, newest first.
select p.id, p.trader_id, p.symbol, p.timeframe, p.triggered_at, p.price, p.shown, p.screened_at, p.created_at, p.late, p.forming, p.has_next
  from (select l.*, lead(true) over pages is not null as has_next, sum(l.bytes) over pages - l.bytes as bytes_before
          from (select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at,
                       s.late, s.forming, 300 + pg_column_size(s.shown) as bytes
                  from public.signals s
                 where s.user_id = %(user_id)s
                   and (%(trader_id)s::uuid is null or s.trader_id = %(trader_id)s)
                   and (%(symbol)s::text is null or s.symbol = %(symbol)s)
                   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
                   and (%(from)s::timestamptz is null or s.triggered_at >= %(from)s)
                   and (%(until)s::timestamptz is null or s.triggered_at <= %(until)s)
                   and (%(after_at)s::timestamptz is null or (s.created_at, s.id) < (%(after_at)s, %(after_id)s::bigint))
                 order by s.created_at desc, s.id desc
                 limit %(limit)s + 1) l
        window pages as (order by l.created_at desc, l.id desc)) p
 where p.bytes_before < %(bytes_max)s
 order by p.created_at desc, p.id desc
 limit %(limit)s;

-- keep_signal_partition --
-- A partition for the month of this slot.
select vyx.keep_signal_partition(%(slot)s);

-- insert_signals --
-- Matches become signals: once per (trader, symbol, bar), only while the lease that screened them is held, and not within a cooldown.
-- Sorted by the key, or two writers could deadlock. Returns how many matches had their lease, and how many became signals.
with joined as materialized (
  select m.*, s.user_id
    from unnest(%(trader_ids)s::uuid[], %(epochs)s::bigint[], %(symbols)s::text[], %(timeframes)s::text[], %(prices)s::float8[],
                %(shown)s::text[], %(plan_hashes)s::text[], %(forming)s::boolean[], %(cooldowns_s)s::float8[])
         as m (trader_id, epoch, symbol, timeframe, price, shown, plan_hash, forming, cooldown_s)
    join public.trader_state s on s.trader_id = m.trader_id and s.owner = %(boot_id)s and s.epoch = m.epoch
), inserted as (
  insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, forming, late, screened_at)
  select m.trader_id, m.user_id, m.symbol, m.timeframe::vyx.timeframe, %(slot)s, m.price, m.shown::jsonb, m.plan_hash, m.epoch, m.forming,
         coalesce(vyx.market_time() - %(slot)s::timestamptz > interval '60 s', false), now()
    from joined m
   where m.cooldown_s is null
      or not exists (select from public.signals earlier
                      where earlier.trader_id = m.trader_id and earlier.symbol = m.symbol and earlier.triggered_at < %(slot)s
                        and earlier.triggered_at > %(slot)s::timestamptz - make_interval(secs => m.cooldown_s))
   order by m.trader_id, m.symbol
  on conflict do nothing
  returning id, trader_id, user_id, symbol, timeframe
), queued as (  -- the outbox: a delivery for each destination of the owner that wants it
  insert into vyx.deliveries (source_id, destination_id, user_id, trader_id, symbol, triggered_at, expires_at)
  select i.id, d.id, i.user_id, i.trader_id, i.symbol, %(slot)s,
         clock_timestamp() + coalesce(make_interval(secs => d.expires_after_s), i.timeframe::text::interval)
         + make_interval(secs => coalesce((d.digest ->> 'every_s')::int, 0)) - late.ness
    from inserted i
    join public.destinations d on d.user_id = i.user_id and d.enabled and 'signal' = any (d.events)
     and (d.trader_ids is null or i.trader_id = any (d.trader_ids))
   cross join (select vyx.wall_lateness(%(slot)s::timestamptz) as ness) late
   order by d.id, i.id
), counted as (
  update public.trader_state s
     set signal_count = s.signal_count + n.signals, last_signal_at = greatest(s.last_signal_at, %(slot)s),
         signals_that_day = n.signals + case when s.signal_day = vyx.market_day(%(slot)s) then s.signals_that_day else 0 end,
         signal_day = vyx.market_day(%(slot)s)
    from (select trader_id, count(*) as signals from inserted group by trader_id) n
   where s.trader_id = n.trader_id
  returning n.signals)
select (select count(*) from joined) as joined, coalesce((select sum(signals) from counted), 0)::bigint as inserted;

-- signals_around --
-- The trader's signals of a symbol at a slot and within a reach (cooldown, bar in progress) before it, newest first.
select g.triggered_at, g.plan_hash from public.signals g
 where g.trader_id = %(trader_id)s and g.symbol = %(symbol)s and g.triggered_at <= %(slot)s
   and (g.triggered_at = %(slot)s or g.triggered_at > %(slot)s::timestamptz - make_interval(secs => %(reach_s)s))
 order by g.triggered_at desc limit 2;

-- signals_at --
-- What was committed for traders at a slot, and earlier signals of each within its reach (cooldown, forming bar), oldest first.
select g.trader_id, g.symbol, g.timeframe::text as timeframe, g.triggered_at, g.price, g.shown, g.plan_hash
  from unnest(%(trader_ids)s::uuid[], %(reaches_s)s::float8[]) as asked (trader_id, reach_s)
  join public.signals g on g.trader_id = asked.trader_id and g.triggered_at <= %(slot)s
   and g.triggered_at >= %(slot)s::timestamptz - make_interval(secs => %(reach_max_s)s)
   and (g.triggered_at = %(slot)s or g.triggered_at > %(slot)s::timestamptz - make_interval(secs => asked.reach_s))
 order by g.triggered_at;

-- signals_between --
-- A trader's signals after one slot and through another, oldest first.
select g.trader_id, g.symbol, g.timeframe::text as timeframe, g.triggered_at, g.price, g.shown, g.plan_hash
  from public.signals g where g.trader_id = %(trader_id)s and g.triggered_at > %(after)s and g.triggered_at <= %(through)s
 order by g.triggered_at;

-- export_signals --
-- Signals of a user (null: of all users) in the order of their ids, behind after_id.
select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at, s.late, s.forming
  from public.signals s
 where (%(user_id)s::uuid is null or s.user_id = %(user_id)s)
   and (%(trader_id)s::uuid is null or s.trader_id = %(trader_id)s)
   and (%(symbol)s::text is null or s.symbol = %(symbol)s)
   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
   and (%(from)s::timestamptz is null or s.triggered_at >= %(from)s)
   and (%(until)s::timestamptz is null or s.triggered_at <= %(until)s)
   and s.id > %(after_id)s
 order by s.id
 limit %(limit)s;

-- delete_signals --
-- So many of a user's signals, the oldest first.
delete from public.signals s using (
  select o.trader_id, o.symbol, o.triggered_at from public.signals o where o.user_id = %(user_id)s order by o.id limit %(limit)s) old
 where s.trader_id = old.trader_id and s.symbol = old.symbol and s.triggered_at = old.triggered_at;

-- drop_signal_partition --
-- The oldest month of signals goes whole when all of it is old; about how many rows it had, or null.
select vyx.drop_signal_partition_v1(%(before)s);

-- prune_signals --
-- So many old signals, and the feed begins after the newest of them. The instant stands in the delete, too: other months are not looked at.
with gone as (
  delete from public.signals s using (
    select o.trader_id, o.symbol, o.triggered_at from public.signals o where o.triggered_at < %(before)s limit %(limit)s) old
   where s.triggered_at < %(before)s and s.trader_id = old.trader_id and s.symbol = old.symbol and s.triggered_at = old.triggered_at
  returning s.id)
select count(*), vyx.raise_feed_floor(max(g.id)) from gone g;
