-- explained_trader --
-- What decides about a match of this trader, whoever owns it.
select t.user_id, t.filter, t.plan::text as plan, t.plan_hash, t.symbols, t.frequency, s.state::text as state, s.last_error,
       vyx.screened_through(s) as screened_through
  from public.traders t join public.trader_state s on s.trader_id = t.id
 where t.id = %(trader_id)s;

-- slot_state --
-- What the ledger says of a slot; no row: it is older than the ledger, or its time has not come.
select s.state::text as state, s.reason from vyx.slots s where s.slot = %(slot)s;

-- covering_lease --
-- Whether a machine accounted for this trader's slot.
select exists (select from vyx.leases l where l.trader_id = %(trader_id)s and l.after < %(slot)s and l.through >= %(slot)s)
    or exists (select from public.trader_state s
                where s.trader_id = %(trader_id)s and s.owner is not null and s.lease_after < %(slot)s and vyx.screened_through(s) >= %(slot)s);

-- signals_around --
-- The trader's signals of a symbol at a slot and within a reach (cooldown, bar in progress) before it, newest first.
select g.triggered_at, g.plan_hash from public.signals g
 where g.trader_id = %(trader_id)s and g.symbol = %(symbol)s and g.triggered_at <= %(slot)s
   and (g.triggered_at = %(slot)s or g.triggered_at > %(slot)s::timestamptz - make_interval(secs => %(reach_s)s))
 order by g.triggered_at desc limit 2;
