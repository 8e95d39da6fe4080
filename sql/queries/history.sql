-- axis --
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

-- symbols_in_order --
-- Every pair ever seen, in the order of a panel's rows.
select s.symbol from vyx.symbols s where %(symbols)s::text[] is null or s.symbol = any (%(symbols)s::text[]) order by s.symbol_id;

-- unscreened --
-- What live screening passes over between two instants: slots without candles (symbol is null), and minute candles that came after
-- their slot had closed.
select null as symbol, o.slot from vyx.slots o where o.state = 'outage' and o.slot between %(first)s and %(last)s
union all
select s.symbol, k.open_time + interval '1 min' from vyx.candle_corrections k join vyx.symbols s using (symbol_id)
 where k.timeframe = '1m' and k.was is null and k.open_time between %(first)s::timestamptz - interval '1 min' and %(last)s::timestamptz - interval '1 min';
