-- clocks --
-- The wall clock, and what the market's has reached in the ledger (null: there is no market yet).
select clock_timestamp() as wall, least(vyx.market_time(), vyx.newest_slot()) as market;

-- begin_pruning --
-- State before the first row goes that older rows of a kind may be gone.
insert into vyx.prunings as p (kind, pruned_before) values (%(kind)s, %(before)s)
on conflict (kind) do update set pruned_before = greatest(p.pruned_before, excluded.pruned_before), pruned_at = clock_timestamp();

-- count_pruned --
-- Add what was deleted.
update vyx.prunings set row_count = row_count + %(rows)s, pruned_at = clock_timestamp() where kind = %(kind)s;

-- audited_from --
-- Market time from which on everything an audit compares is kept; null: nothing was ever pruned.
select greatest(max(p.pruned_before) filter (where p.kind in ('signals', 'signal_digests', 'slots')),
                max(vyx.market_time(p.pruned_before)) filter (where p.kind in ('leases', 'trader_versions')))
  from vyx.prunings p;
