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
