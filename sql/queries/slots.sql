-- next_closed_slots --
-- The slots this machine has to account for, oldest first, up to the first one that is still open.
select slot, state::text from vyx.slots
 where slot > %(after)s
   and slot < coalesce((select min(slot) from vyx.slots where state = 'open' and slot > %(after)s), 'infinity')
 order by slot limit %(limit)s;

-- open_due_slots --
-- Open every minute boundary the market's clock has passed, so that a silent feed is visible. At most a day at once.
insert into vyx.slots (slot, symbols_expected, reason)
select slot, (select count(*) from vyx.symbols where trading), 'no candles have arrived yet'
  from generate_series(vyx.newest_slot() + interval '1 min',
                       least(vyx.market_time() - interval '5 s', vyx.newest_slot() + interval '1 day'), interval '1 min') slot
on conflict do nothing;

-- close_slots --
-- Close slots: complete, or outage with its reason. A closed slot never opens again.
insert into vyx.slots (slot, state, symbols_expected, symbols_missing, missing, missing_reasons, reason, closed_at)
select closed.slot, closed.state::vyx.slot_state, closed.expected, closed.missing_count, array(select jsonb_object_keys(closed.missing) order by 1),
       closed.missing, closed.reason, clock_timestamp()
  from unnest(%(slots)s::timestamptz[], %(states)s::text[], %(expected)s::int[], %(missing_counts)s::int[], %(missing)s::jsonb[], %(reasons)s::text[])
       as closed (slot, state, expected, missing_count, missing, reason)
on conflict (slot) do update
   set state = excluded.state, symbols_expected = excluded.symbols_expected, symbols_missing = excluded.symbols_missing,
       missing = excluded.missing, missing_reasons = excluded.missing_reasons, reason = excluded.reason, closed_at = excluded.closed_at
 where slots.state = 'open';

-- slot_counts --
-- For `vyx status` and metrics: how the ledger stands.
select vyx.newest_closed_slot(), vyx.market_time(),
       (select count(*) from vyx.slots where state = 'open'), (select count(*) from vyx.slots where state = 'outage');

-- prune_slots --
-- So many old slots go, the oldest first.
delete from vyx.slots s using (select o.slot from vyx.slots o where o.slot < %(before)s order by o.slot limit %(limit)s) old where s.slot = old.slot;

-- newest_closed_slot --
-- The last slot that is accounted for, or can be.
select vyx.newest_closed_slot();

-- find_slot --
-- What the ledger says of a slot and one symbol; no row: it is older than the ledger, or its time has not come.
select s.state::text as state, s.reason, s.missing_reasons ->> %(symbol)s as missing_reason from vyx.slots s where s.slot = %(slot)s;

-- unscreened --
-- What live screening passes over between two instants: slots without candles (symbol is null), and minute candles that came after
-- their slot had closed.
select null as symbol, o.slot from vyx.slots o where o.state = 'outage' and o.slot between %(first)s and %(last)s
union all
select s.symbol, k.open_time + interval '1 min' from vyx.candle_corrections k join vyx.symbols s using (symbol_id)
 where k.timeframe = '1m' and k.was is null and k.open_time between %(first)s::timestamptz - interval '1 min' and %(last)s::timestamptz - interval '1 min';

-- oldest_open_slot --
-- The first slot of a span that waits for candles.
select min(slot) from vyx.slots where state = 'open' and slot > %(after)s and slot <= %(through)s;

-- slots_between --
-- The ledger after one slot and through another, oldest first.
select slot, state::text as state, closed_at from vyx.slots where slot > %(after)s and slot <= %(through)s order by slot;

-- one_snapshot --
-- First in a transaction that only reads: all its statements see one moment.
set transaction isolation level repeatable read, read only;
-- close_open_slots --
-- Minutes nobody will have candles of, because the market's clock jumps over them.
update vyx.slots set state = 'outage', reason = %(reason)s, closed_at = clock_timestamp() where state = 'open' and slot < %(before)s;
