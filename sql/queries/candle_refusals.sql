-- put_refusals --
-- Candles set aside. The same bar of the same source counts once: the newest text stays.
insert into vyx.candle_refusals as r (symbol_id, timeframe, open_time, source, what, raw)
select distinct on (n.symbol_id, n.open_time, n.source) n.symbol_id, %(timeframe)s::vyx.timeframe, n.open_time, n.source, n.what, n.raw
  from unnest(%(symbol_ids)s::int[], %(open_times)s::timestamptz[], %(sources)s::text[], %(whats)s::text[], %(raws)s::text[])
       as n (symbol_id, open_time, source, what, raw)
on conflict (symbol_id, timeframe, open_time, source) do update set what = excluded.what, raw = excluded.raw, refused_at = clock_timestamp();

-- find_refusal --
-- Why a pair's bar was refused; no row: it was not.
select r.what from vyx.candle_refusals r join vyx.symbols s using (symbol_id)
 where s.symbol = %(symbol)s and r.timeframe = %(timeframe)s::vyx.timeframe and r.open_time = %(open_time)s
 order by r.source limit 1;

-- prune_refusals --
-- So many old refusals go.
delete from vyx.candle_refusals r using (
  select o.refusal_id from vyx.candle_refusals o where o.refused_at < %(before)s limit %(limit)s) old
 where r.refusal_id = old.refusal_id;
