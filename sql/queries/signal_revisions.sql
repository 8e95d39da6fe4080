-- next_corrected_slots --
-- Slots at which corrected bars close and that have not been screened again, oldest first, each with the pairs concerned.
select c.open_time + make_interval(secs => l.seconds) as slot, array_agg(distinct s.symbol) as symbols, max(c.correction_id) as newest
  from vyx.candle_corrections c
  join vyx.symbols s using (symbol_id)
  join unnest(%(timeframes)s::text[], %(seconds)s::int[]) as l (timeframe, seconds) on l.timeframe = c.timeframe::text
 where c.screened_again_at is null
 group by 1 order by 1 limit %(limit)s;

-- mark_screened_again --
-- These pairs' corrections at a slot have been looked at; one that came meanwhile has not.
update vyx.candle_corrections c set screened_again_at = clock_timestamp()
  from vyx.symbols s, unnest(%(timeframes)s::text[], %(seconds)s::int[]) as l (timeframe, seconds)
 where c.screened_again_at is null and c.correction_id <= %(newest)s and s.symbol_id = c.symbol_id and s.symbol = any (%(symbols)s::text[])
   and l.timeframe = c.timeframe::text and c.open_time + make_interval(secs => l.seconds) = %(slot)s;

-- traders_screened_at --
-- A page of the traders that were screened at a slot for any of these pairs, and are screened by the same filter still; none that stored a digest.
select t.id as trader_id, t.user_id, t.plan::text as plan, t.symbols, t.frequency
  from public.traders t join public.trader_state s on s.trader_id = t.id
 where (t.symbols is null or t.symbols && %(symbols)s::text[]) and vyx.market_time(t.updated_at) < %(slot)s and t.id > %(after_id)s::uuid
   and (exists (select from vyx.leases l where l.trader_id = t.id and l.after < %(slot)s and l.through >= %(slot)s)
        or (s.owner is not null and s.lease_after < %(slot)s and vyx.screened_through(s) >= %(slot)s))
   and not exists (select from public.signal_digests d where d.trader_id = t.id and d.slot = %(slot)s)
 order by t.id limit %(limit)s;

-- signals_near --
-- A trader's signals of these pairs at a slot, and within its cooldown before.
select g.symbol, g.triggered_at from public.signals g
 where g.trader_id = %(trader_id)s and g.symbol = any (%(symbols)s::text[]) and g.triggered_at <= %(slot)s
   and (g.triggered_at = %(slot)s or g.triggered_at > %(slot)s::timestamptz - make_interval(secs => %(cooldown_s)s));

-- put_revisions --
-- Report signals that would be missing or new; one that has been reported already is not reported again.
insert into public.signal_revisions (trader_id, user_id, symbol, triggered_at, kind)
select %(trader_id)s, %(user_id)s, r.symbol, %(slot)s, r.kind from unnest(%(symbols)s::text[], %(kinds)s::text[]) as r (symbol, kind)
on conflict do nothing;

-- find_revision --
-- What corrected candles would have changed about a trader's symbol and slot; no row: nothing.
select r.kind from public.signal_revisions r
 where r.trader_id = %(trader_id)s and r.symbol = %(symbol)s and r.triggered_at = %(slot)s order by r.revision_id desc limit 1;

-- prune_revisions --
-- So many reports about old signals go.
delete from public.signal_revisions r using (
  select o.revision_id from public.signal_revisions o where o.triggered_at < %(before)s limit %(limit)s) old
 where r.revision_id = old.revision_id;
