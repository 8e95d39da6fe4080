-- list_universe --
-- Every symbol ever seen, in the order of the panel's rows.
select symbol_id, symbol, trading from vyx.symbols order by symbol_id;

-- put_symbols --
-- The exchange's list of today: new pairs are added, the others trade or no longer do.
insert into vyx.symbols (symbol, base, quote)
select listed.symbol, listed.base, listed.quote
  from unnest(%(symbols)s::text[], %(bases)s::text[], %(quotes)s::text[]) as listed (symbol, base, quote)
on conflict (symbol) do update set trading = true where not symbols.trading;

-- end_trading --
-- Pairs the exchange no longer lists.
update vyx.symbols set trading = false where trading and not symbol = any (%(symbols)s::text[]);

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

-- symbols_in_order --
-- Every pair ever seen, in the order of a panel's rows.
select s.symbol from vyx.symbols s where %(symbols)s::text[] is null or s.symbol = any (%(symbols)s::text[]) order by s.symbol_id;
