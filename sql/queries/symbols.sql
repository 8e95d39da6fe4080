-- list_universe --
-- Every symbol ever seen, in the order of the panel's rows.
select symbol_id, symbol, trading, screened, waits_for, greatest(extract(epoch from retry_at - clock_timestamp()), 0)::float8 as retry_in_s
  from vyx.symbols order by symbol_id;

-- put_symbols --
-- The exchange's list of today: new pairs are added, those that had been halted trade again and wait for what they missed.
insert into vyx.symbols (symbol, base, quote, waits_for)
select listed.symbol, listed.base, listed.quote, 'its history is loading'
  from unnest(%(symbols)s::text[], %(bases)s::text[], %(quotes)s::text[]) as listed (symbol, base, quote)
on conflict (symbol) do update set trading = true, waits_for = excluded.waits_for where not symbols.trading;

-- end_trading --
-- Pairs that are not screened any more, each with its reason; those in the list go on.
update vyx.symbols s set trading = false, reason = coalesce(%(reasons)s::jsonb ->> s.symbol, 'no longer listed')
 where s.trading and not s.symbol = any (%(symbols)s::text[]);

-- screen_pairs --
-- The history of these pairs has become whole: slots wait for their candles, and panels read it.
update vyx.symbols set screened = true, waits_for = null, retry_at = null, join_count = join_count + 1
 where symbol_id = any (%(symbol_ids)s::int[]) and trading;

-- let_wait --
-- A pair that is not screened yet, because of this; it is tried again after its own backoff.
update vyx.symbols set screened = false, waits_for = %(reason)s, retry_at = clock_timestamp() + make_interval(secs => %(retry_s)s)
 where symbol_id = %(symbol_id)s and trading;

-- list_symbols --
-- Every pair ever screened, by name.
select s.symbol, s.base, s.quote, s.trading, s.screened, s.listed_at, s.halted_at, coalesce(s.reason, s.waits_for) as reason
  from vyx.symbols s order by s.symbol;

-- unknown_symbols --
-- Which of these names the market does not have; none while no symbol has been loaded.
select wanted.symbol from unnest(%(symbols)s::text[]) wanted (symbol)
 where exists (select from vyx.symbols)
   and not exists (select from vyx.symbols s where s.symbol = wanted.symbol)
 order by wanted.symbol;

-- symbol_exists --
-- Whether the market has ever had this pair.
select exists (select from vyx.symbols s where s.symbol = %(symbol)s);

-- symbols_in_order --
-- Every pair ever seen, in the order of a panel's rows.
select s.symbol from vyx.symbols s where %(symbols)s::text[] is null or s.symbol = any (%(symbols)s::text[]) order by s.symbol_id;
