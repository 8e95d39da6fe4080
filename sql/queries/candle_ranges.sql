-- read_ranges --
-- What is known of some pairs' bars, as pieces of open times: [from, until).
select r.symbol_id, r.timeframe::text, lower(k), upper(k)
  from vyx.candle_ranges r cross join lateral unnest(r.known) k
 where r.symbol_id = any (%(symbol_ids)s::int[])
 order by r.symbol_id, r.timeframe, k;

-- know_ranges --
-- The exchange has been asked for these bars; those marked absent it does not have.
insert into vyx.candle_ranges as r (symbol_id, timeframe, known, absent)
select p.symbol_id, %(timeframe)s::vyx.timeframe, range_agg(tstzrange(p.first, p.until)),
       coalesce(range_agg(tstzrange(p.first, p.until)) filter (where p.is_absent), '{}')
  from unnest(%(symbol_ids)s::int[], %(firsts)s::timestamptz[], %(untils)s::timestamptz[], %(absent)s::boolean[]) as p (symbol_id, first, until, is_absent)
 group by p.symbol_id
on conflict (symbol_id, timeframe) do update
   set known = r.known + excluded.known, absent = (r.absent - excluded.known) + excluded.absent;

-- know_rolled --
-- The bars that were rolled up at these slots, for pairs of which every finer bar is known; no row: no finer bar had one.
insert into vyx.candle_ranges as r (symbol_id, timeframe, known, absent)
select f.symbol_id, %(timeframe)s::vyx.timeframe, range_agg(b.span),
       coalesce(range_agg(b.span) filter (where c.symbol_id is null), '{}')
  from (select slot - make_interval(secs => %(seconds)s) as open_time, tstzrange(slot - make_interval(secs => %(seconds)s), slot) as span
          from unnest(%(slots)s::timestamptz[]) slot) b
  join vyx.candle_ranges f on f.timeframe = %(source)s::vyx.timeframe and f.known @> b.span
  left join vyx.candles c on c.timeframe = %(timeframe)s::vyx.timeframe and c.symbol_id = f.symbol_id and c.open_time = b.open_time
 group by f.symbol_id
on conflict (symbol_id, timeframe) do update
   set known = r.known + excluded.known, absent = (r.absent - excluded.known) + excluded.absent;

-- compare_with_rows --
-- Of some pairs and a timeframe: how many bars each range promises, and how many rows there are.
select s.symbol,
       (select coalesce(sum(extract(epoch from upper(k) - lower(k))), 0) from unnest(r.known - r.absent) k)::bigint / %(seconds)s as promised,
       coalesce(n.stored, 0) as stored
  from vyx.candle_ranges r
  join vyx.symbols s using (symbol_id)
  left join (
    select c.symbol_id, count(*) as stored
      from vyx.candles c join vyx.candle_ranges k on k.timeframe = c.timeframe and k.symbol_id = c.symbol_id and k.known @> c.open_time
     where c.timeframe = %(timeframe)s::vyx.timeframe and c.symbol_id = any (%(symbol_ids)s::int[])
     group by c.symbol_id) n on n.symbol_id = r.symbol_id
 where r.timeframe = %(timeframe)s::vyx.timeframe and r.symbol_id = any (%(symbol_ids)s::int[])
 order by s.symbol;

-- forget_ranges --
-- Nothing is known any more of these pairs' bars: the exchange is asked again.
update vyx.candle_ranges r set known = '{}', absent = '{}'
  from vyx.symbols s
 where s.symbol_id = r.symbol_id and s.symbol = any (%(symbols)s::text[]) and r.timeframe = %(timeframe)s::vyx.timeframe;

-- put_check --
-- On record: what comparing rows with ranges found.
insert into vyx.history_checks (ranges, bars, wrong) values (%(ranges)s, %(bars)s, %(wrong)s::jsonb);
