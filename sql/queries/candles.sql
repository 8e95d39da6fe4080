-- insert_candles --
-- Closed candles; one that is a row already stays as it is.
insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
select c.symbol_id, %(timeframe)s::vyx.timeframe, c.open_time, c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trade_count
  from unnest(%(symbol_ids)s::int[], %(open_times)s::timestamptz[], %(opens)s::float8[], %(highs)s::float8[], %(lows)s::float8[],
              %(closes)s::float8[], %(volumes)s::float8[], %(quote_volumes)s::float8[], %(trade_counts)s::bigint[])
       as c (symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count)
on conflict do nothing;

-- roll_up --
-- The bars of one timeframe that closed at these slots, from the next finer one. Open, high and low are over bars with volume:
-- that equals the exchange's own candles (a bucket without any trade is flat at its close); skipping is what makes it exact.
-- The same rule as app/market/simulated/rollup.py, which a test holds it to; greatest and least pass over null. A pair of which part of the
-- bucket has not been asked for gets no bar: it would be one of the minutes we happen to have. Who has no ranges at all is not held to them.
insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
select b.symbol_id, %(timeframe)s::vyx.timeframe, b.open_time, coalesce(b.open, b.close), greatest(b.high, b.close), least(b.low, b.close), b.close,
       b.volume, b.quote_volume, b.trade_count
  from (
    select c.symbol_id, bucket.open_time,
           (array_agg(c.open order by c.open_time) filter (where c.volume > 0))[1] as open,
           max(c.high) filter (where c.volume > 0) as high, min(c.low) filter (where c.volume > 0) as low,
           (array_agg(c.close order by c.open_time desc))[1] as close,
           sum(c.volume) as volume, sum(c.quote_volume) as quote_volume, sum(c.trade_count)::bigint as trade_count
      from (select slot - make_interval(secs => %(seconds)s) as open_time, slot as close_time from unnest(%(slots)s::timestamptz[]) slot) bucket
      join vyx.candles c on c.timeframe = %(source)s::vyx.timeframe and c.open_time >= bucket.open_time and c.open_time < bucket.close_time
     where not exists (select from vyx.candle_ranges r where r.symbol_id = c.symbol_id and r.timeframe = %(source)s::vyx.timeframe
                          and not r.known @> tstzrange(bucket.open_time, bucket.close_time))
     group by c.symbol_id, bucket.open_time) b
on conflict do nothing;

-- correct_candles --
-- Candles of bars that have been screened: new ones are late, differing ones corrections; both are on record with what was there.
-- Equal ones change nothing, and volumes summed in another order are equal. Returns the bars that changed.
with copies as (
  select c.* from unnest(%(symbol_ids)s::int[], %(open_times)s::timestamptz[], %(opens)s::float8[], %(highs)s::float8[], %(lows)s::float8[],
                         %(closes)s::float8[], %(volumes)s::float8[], %(quote_volumes)s::float8[], %(trade_counts)s::bigint[])
         as c (symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count)
), before as (
  select k.* from vyx.candles k join copies c on k.timeframe = %(timeframe)s::vyx.timeframe and k.symbol_id = c.symbol_id and k.open_time = c.open_time
), written as (
  insert into vyx.candles as k (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
  select c.symbol_id, %(timeframe)s::vyx.timeframe, c.open_time, c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trade_count from copies c
  on conflict (timeframe, symbol_id, open_time) do update
     set open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
         quote_volume = excluded.quote_volume, trade_count = excluded.trade_count
   where (k.open, k.high, k.low, k.close) is distinct from (excluded.open, excluded.high, excluded.low, excluded.close)
      or abs(k.volume - excluded.volume) > 1e-9 * greatest(k.volume, excluded.volume)
  returning *)
insert into vyx.candle_corrections (symbol_id, timeframe, open_time, was, became, reason)
select w.symbol_id, w.timeframe, w.open_time,
       case when b.symbol_id is not null then jsonb_build_object('open', b.open, 'high', b.high, 'low', b.low, 'close', b.close, 'volume', b.volume) end,
       jsonb_build_object('open', w.open, 'high', w.high, 'low', w.low, 'close', w.close, 'volume', w.volume),
       case when b.symbol_id is null then 'arrived after its slot had closed' else 'the exchange corrected it' end
  from written w left join before b on b.symbol_id = w.symbol_id and b.open_time = w.open_time
returning symbol_id, open_time;

-- rebuild_roll_ups --
-- The bars of one timeframe that contain changed bars of the next finer one and have been screened, made again by the rule of roll_up
-- and on record where they differ. Where not all of a bucket's finer bars are known, the bar is forgotten instead: the exchange is
-- asked for its own. Returns the bars that changed.
with bucket as (
  select distinct t.symbol_id, date_bin(make_interval(secs => %(seconds)s), t.open_time, 'epoch') as open_time
    from unnest(%(symbol_ids)s::int[], %(open_times)s::timestamptz[]) as t (symbol_id, open_time)
), closed as (
  select b.symbol_id, b.open_time, b.open_time + make_interval(secs => %(seconds)s) as close_time,
         not exists (select from vyx.candle_ranges r where r.symbol_id = b.symbol_id and r.timeframe = %(source)s::vyx.timeframe
                        and not r.known @> tstzrange(b.open_time, b.open_time + make_interval(secs => %(seconds)s))) as is_whole
    from bucket b where b.open_time + make_interval(secs => %(seconds)s) <= %(through)s
), forgotten as (
  update vyx.candle_ranges r set known = r.known - f.spans, absent = r.absent - f.spans
    from (select c.symbol_id, range_agg(tstzrange(c.open_time, c.close_time)) as spans from closed c where not c.is_whole group by c.symbol_id) f
   where r.symbol_id = f.symbol_id and r.timeframe = %(timeframe)s::vyx.timeframe
), rolled as (
  select c.symbol_id, b.open_time,
         (array_agg(c.open order by c.open_time) filter (where c.volume > 0))[1] as open,
         max(c.high) filter (where c.volume > 0) as high, min(c.low) filter (where c.volume > 0) as low,
         (array_agg(c.close order by c.open_time desc))[1] as close,
         sum(c.volume) as volume, sum(c.quote_volume) as quote_volume, sum(c.trade_count)::bigint as trade_count
    from closed b
    join vyx.candles c on c.timeframe = %(source)s::vyx.timeframe and c.symbol_id = b.symbol_id and c.open_time >= b.open_time and c.open_time < b.close_time
   where b.is_whole group by c.symbol_id, b.open_time
), before as (
  select k.* from vyx.candles k join rolled c on k.timeframe = %(timeframe)s::vyx.timeframe and k.symbol_id = c.symbol_id and k.open_time = c.open_time
), written as (
  insert into vyx.candles as k (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
  select c.symbol_id, %(timeframe)s::vyx.timeframe, c.open_time, coalesce(c.open, c.close), greatest(c.high, c.close), least(c.low, c.close), c.close,
         c.volume, c.quote_volume, c.trade_count from rolled c
  on conflict (timeframe, symbol_id, open_time) do update
     set open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
         quote_volume = excluded.quote_volume, trade_count = excluded.trade_count
   where (k.open, k.high, k.low, k.close) is distinct from (excluded.open, excluded.high, excluded.low, excluded.close)
      or abs(k.volume - excluded.volume) > 1e-9 * greatest(k.volume, excluded.volume)
  returning *)
insert into vyx.candle_corrections (symbol_id, timeframe, open_time, was, became, reason)
select w.symbol_id, w.timeframe, w.open_time,
       case when b.symbol_id is not null then jsonb_build_object('open', b.open, 'high', b.high, 'low', b.low, 'close', b.close, 'volume', b.volume) end,
       jsonb_build_object('open', w.open, 'high', w.high, 'low', w.low, 'close', w.close, 'volume', w.volume),
       'rolled up again: a bar in it changed'
  from written w left join before b on b.symbol_id = w.symbol_id and b.open_time = w.open_time
returning symbol_id, open_time;

-- newest_correction --
-- Rises when a candle changed or arrived late, and when a pair's history became whole: panels read their frames again.
select coalesce((select max(correction_id) from vyx.candle_corrections), 0) + coalesce((select sum(join_count) from vyx.symbols), 0)::bigint;

-- prune_candles --
-- Keep the newest bars of a timeframe that any plan may look back on.
with gone as (
  delete from vyx.candles where timeframe = %(timeframe)s::vyx.timeframe and open_time < %(before)s returning 1
), cut as (
  update vyx.candle_ranges r set known = r.known * tstzmultirange(tstzrange(%(before)s, null)), absent = r.absent * tstzmultirange(tstzrange(%(before)s, null))
   where r.timeframe = %(timeframe)s::vyx.timeframe and not r.known <@ tstzrange(%(before)s, null)
)
select count(*) from gone;

-- make_staging --
-- Where a bulk load lands before it becomes candles; gone with the transaction.
create temp table candle_staging (
  symbol_id int, open_time timestamptz, open float8, high float8, low float8, close float8, volume float8, quote_volume float8, trade_count bigint
) on commit drop;

-- copy_staging --
-- The bulk load itself, in Postgres's binary format.
copy candle_staging from stdin (format binary);

-- insert_staged --
-- Closed candles; one that is a row already stays as it is.
insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
select symbol_id, %(timeframe)s::vyx.timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count from candle_staging
on conflict do nothing;

-- list_candles --
-- The newest closed candles of a pair that opened before an instant, oldest first.
select c.open_time, c.open, c.high, c.low, c.close, c.volume
  from (select c.* from vyx.candles c
         where c.symbol_id = (select s.symbol_id from vyx.symbols s where s.symbol = %(symbol)s)
           and c.timeframe = %(timeframe)s::vyx.timeframe
           and c.open_time < coalesce(%(until)s::timestamptz, 'infinity')
         order by c.open_time desc limit %(limit)s) c
 order by c.open_time;

-- bar_times --
-- The newest bars of a timeframe that exist for any symbol and close by an instant, newest first. Walks the index from bar to bar:
-- 300 bars cost 300 probes, however many symbols each has and however long an outage lies between two of them.
with recursive bar (open_time) as (
  (select c.open_time from vyx.candles c
    where c.timeframe = %(timeframe)s::vyx.timeframe and c.open_time <= %(last)s order by c.open_time desc limit 1)
  union all
  select (select c.open_time from vyx.candles c
           where c.timeframe = %(timeframe)s::vyx.timeframe and c.open_time < bar.open_time order by c.open_time desc limit 1)
    from bar where bar.open_time is not null
)
select bar.open_time from bar where bar.open_time is not null limit %(bars)s;

-- candles_by_symbol --
-- Bars of a span, one row per symbol, each column as one binary array: a hundredth of the rows, so that reading half a million bars
-- takes nothing from the event loop of whoever reads them. Null symbols are all of them.
select s.symbol, array_send(array_agg(c.open_time)), array_send(array_agg(c.open)), array_send(array_agg(c.high)),
       array_send(array_agg(c.low)), array_send(array_agg(c.close)), array_send(array_agg(c.volume))
  from vyx.candles c join vyx.symbols s using (symbol_id)
 where c.timeframe = %(timeframe)s::vyx.timeframe and c.open_time between %(first)s and %(last)s
   and (%(symbols)s::text[] is null or c.symbol_id in (select w.symbol_id from vyx.symbols w where w.symbol = any (%(symbols)s::text[])))
 group by s.symbol_id, s.symbol
 order by s.symbol_id;

-- last_candles_before --
-- Of each pair without a bar at an instant its last one before: until its next bar the pair reads flat at that close. One probe of the
-- primary key for each pair. Null symbols are all of them.
select s.symbol_id, s.symbol, c.open_time, c.open, c.high, c.low, c.close, c.volume
  from vyx.symbols s
 cross join lateral (select k.* from vyx.candles k
                      where k.timeframe = %(timeframe)s::vyx.timeframe and k.symbol_id = s.symbol_id and k.open_time <= %(first)s
                      order by k.open_time desc limit 1) c
 where c.open_time < %(first)s and (%(symbols)s::text[] is null or s.symbol = any (%(symbols)s::text[]))
 order by s.symbol_id;

-- corrections_after --
-- Candles that came or changed after an instant of the database's clock, and opened in a span; oldest correction first.
select s.symbol, k.timeframe::text as timeframe, k.open_time, (k.was ->> 'open')::float8 as open, (k.was ->> 'high')::float8 as high,
       (k.was ->> 'low')::float8 as low, (k.was ->> 'close')::float8 as close, (k.was ->> 'volume')::float8 as volume, k.corrected_at
  from vyx.candle_corrections k join vyx.symbols s using (symbol_id)
 where k.corrected_at > %(corrected_after)s and k.open_time between %(first)s and %(last)s
 order by k.correction_id;

-- prune_corrections --
-- So many old corrections; the newest stays, its number tells machines whether candles have changed.
delete from vyx.candle_corrections c using (
  select o.correction_id from vyx.candle_corrections o
   where o.corrected_at < %(before)s and o.correction_id < (select max(n.correction_id) from vyx.candle_corrections n) limit %(limit)s) old
 where c.correction_id = old.correction_id;
