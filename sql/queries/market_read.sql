-- list_symbols --
-- Every pair ever screened, by name.
select s.symbol, s.base, s.quote, s.trading from vyx.symbols s order by s.symbol;

-- unknown_symbols --
-- Which of these names the market does not have; none while no symbol has been loaded.
select wanted.symbol from unnest(%(symbols)s::text[]) wanted (symbol)
 where exists (select from vyx.symbols)
   and not exists (select from vyx.symbols s where s.symbol = wanted.symbol)
 order by wanted.symbol;

-- symbol_exists --
-- Whether the market has ever had this pair.
select exists (select from vyx.symbols s where s.symbol = %(symbol)s);

-- list_candles --
-- The newest closed candles of a pair that opened before an instant, oldest first.
select c.open_time, c.open, c.high, c.low, c.close, c.volume
  from (select c.* from vyx.candles c
         where c.symbol_id = (select s.symbol_id from vyx.symbols s where s.symbol = %(symbol)s)
           and c.timeframe = %(timeframe)s::vyx.timeframe
           and c.open_time < coalesce(%(until)s::timestamptz, 'infinity')
         order by c.open_time desc limit %(limit)s) c
 order by c.open_time;

-- summary --
-- What /health tells about the whole service.
select m.source as market_source, m.speed, vyx.market_time() as market_at,
       coalesce(m.ends_at <= vyx.market_time(), false) as market_ended, vyx.newest_slot() as newest_slot,
       (select count(*) from vyx.machines a where a.state = 'alive') as machines_alive,
       coalesce(extract(epoch from greatest(interval '0', vyx.newest_closed_slot()
         - (select min(a.screened_through) from vyx.machines a where a.state <> 'dead'))), 0)::float8 as lag_s
  from (values (true)) one (only_one) left join vyx.markets m using (only_one);
