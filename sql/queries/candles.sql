-- insert_candles --
-- Closed candles; one that is a row already stays as it is.
insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
select c.symbol_id, %(timeframe)s::vyx.timeframe, c.open_time, c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trade_count
  from unnest(%(symbol_ids)s::int[], %(open_times)s::timestamptz[], %(opens)s::float8[], %(highs)s::float8[], %(lows)s::float8[],
              %(closes)s::float8[], %(volumes)s::float8[], %(quote_volumes)s::float8[], %(trade_counts)s::int[])
       as c (symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count)
on conflict do nothing;

-- roll_up --
-- The bars of one timeframe that closed at these slots, from the next finer one. Open, high and low are over bars with volume:
-- that equals the exchange's own candles (a bucket without any trade is flat at its close); skipping is what makes it exact.
-- The same rule as app/market/simulated/rollup.py, which a test holds it to; greatest and least pass over null.
insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
select b.symbol_id, %(timeframe)s::vyx.timeframe, b.open_time, coalesce(b.open, b.close), greatest(b.high, b.close), least(b.low, b.close), b.close,
       b.volume, b.quote_volume, b.trade_count
  from (
    select c.symbol_id, bucket.open_time,
           (array_agg(c.open order by c.open_time) filter (where c.volume > 0))[1] as open,
           max(c.high) filter (where c.volume > 0) as high, min(c.low) filter (where c.volume > 0) as low,
           (array_agg(c.close order by c.open_time desc))[1] as close,
           sum(c.volume) as volume, sum(c.quote_volume) as quote_volume, sum(c.trade_count) as trade_count
      from (select slot - make_interval(secs => %(seconds)s) as open_time, slot as close_time from unnest(%(slots)s::timestamptz[]) slot) bucket
      join vyx.candles c on c.timeframe = %(source)s::vyx.timeframe and c.open_time >= bucket.open_time and c.open_time < bucket.close_time
     group by c.symbol_id, bucket.open_time) b
on conflict do nothing;

-- record_late_candles --
-- Candles that arrived after their slot had closed: kept for what comes later, never matched on, and on record.
with late as (
  insert into vyx.candles (symbol_id, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count)
  select c.symbol_id, '1m', c.open_time, c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trade_count
    from unnest(%(symbol_ids)s::int[], %(open_times)s::timestamptz[], %(opens)s::float8[], %(highs)s::float8[], %(lows)s::float8[],
                %(closes)s::float8[], %(volumes)s::float8[], %(quote_volumes)s::float8[], %(trade_counts)s::int[])
         as c (symbol_id, open_time, open, high, low, close, volume, quote_volume, trade_count)
  on conflict do nothing
  returning *)
insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason)
select symbol_id, timeframe, open_time,
       jsonb_build_object('open', open, 'high', high, 'low', low, 'close', close, 'volume', volume), 'arrived after its slot had closed'
  from late;

-- newest_correction --
-- Rises when a candle changed or arrived late: panels that hold its bar read it again.
select coalesce(max(correction_id), 0) from vyx.candle_corrections;

-- last_candles --
-- Per symbol the newest stored bar of a timeframe.
select s.symbol_id, (select max(c.open_time) from vyx.candles c where c.timeframe = %(timeframe)s::vyx.timeframe and c.symbol_id = s.symbol_id)
  from vyx.symbols s where s.trading;

-- prune_candles --
-- Keep the newest bars of a timeframe that any plan may look back on.
delete from vyx.candles where timeframe = %(timeframe)s::vyx.timeframe and open_time < %(before)s;

-- make_staging --
-- Where a bulk load lands before it becomes candles; gone with the transaction.
create temp table candle_staging (
  symbol_id int, open_time timestamptz, open float8, high float8, low float8, close float8, volume float8, quote_volume float8, trade_count int
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
