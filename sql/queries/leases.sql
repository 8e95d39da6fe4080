-- claim --
-- Take up to n free traders.
select vyx.claim_v1(%(boot_id)s, %(n)s);

-- release --
-- Give traders back; null ids are all of them.
select vyx.release_v1(%(boot_id)s, %(trader_ids)s::uuid[]);

-- shares --
-- What a fair share is made of: the state of this machine, living machines, active traders, those nobody holds, this machine's.
select state::text, alive, total, unowned, mine from vyx.shares_v1(%(boot_id)s);

-- fold_counts --
-- Add up the changes of the kept numbers of traders, once there are 50.
select vyx.fold_trader_counts_v1(50);

-- settle --
-- Stop up to n traders that were being stopped when their machine died.
select vyx.settle_v1(%(n)s);

-- covered_spans --
-- Each lease cut at its outage slots: from the first complete slot of a piece through its last. Pieces without one are left out.
with lease as (
  select l.after, l.through, l.machine_id, l.epoch from vyx.leases l where l.trader_id = %(trader_id)s
  union all
  select s.lease_after, vyx.screened_through(s), m.machine_id, s.epoch
    from public.trader_state s join vyx.machines m on m.boot_id = s.owner
   where s.trader_id = %(trader_id)s and vyx.screened_through(s) > s.lease_after
), cut as (
  select l.machine_id, l.epoch, l.after as lower, l.through from lease l
  union all
  select l.machine_id, l.epoch, o.slot, l.through
    from lease l join vyx.slots o on o.state = 'outage' and o.slot > l.after and o.slot <= l.through
), piece as (
  select c.machine_id, c.epoch, c.lower, lead(c.lower) over (partition by c.epoch order by c.lower) as next_cut, c.through from cut c
)
select f.slot as first, t.slot as last, p.machine_id, p.epoch
  from piece p
  cross join lateral (select s.slot from vyx.slots s where s.state = 'complete' and s.slot > p.lower
                         and s.slot <= p.through and (p.next_cut is null or s.slot < p.next_cut) order by s.slot limit 1) f
  cross join lateral (select s.slot from vyx.slots s where s.state = 'complete' and s.slot > p.lower
                         and s.slot <= p.through and (p.next_cut is null or s.slot < p.next_cut) order by s.slot desc limit 1) t
 order by f.slot;

-- outages_in_leases --
-- Slots that a lease accounted for without a candle to screen.
with lease as (
  select l.after, l.through from vyx.leases l where l.trader_id = %(trader_id)s
  union all
  select s.lease_after, vyx.screened_through(s) from public.trader_state s
   where s.trader_id = %(trader_id)s and s.owner is not null and vyx.screened_through(s) > s.lease_after
)
select o.slot as first, o.slot as last, o.reason
  from lease l join vyx.slots o on o.state = 'outage' and o.slot > l.after and o.slot <= l.through
 order by o.slot;

-- lacking_in_leases --
-- The newest slots that a lease accounted for in which symbols of this trader had no candle, with the reason of each.
with lease as (
  select l.after, l.through from vyx.leases l where l.trader_id = %(trader_id)s
  union all
  select s.lease_after, vyx.screened_through(s) from public.trader_state s
   where s.trader_id = %(trader_id)s and s.owner is not null and vyx.screened_through(s) > s.lease_after
), lacking as (
  select o.slot, o.symbols_missing,
         (select jsonb_object_agg(m.key, m.value) from jsonb_each(o.missing_reasons) m where t.symbols is null or m.key = any (t.symbols)) as symbols,
         t.symbols is null as is_everybody
    from lease l
    join vyx.slots o on o.state = 'complete' and o.symbols_missing > 0 and o.slot > l.after and o.slot <= l.through
    join public.traders t on t.id = %(trader_id)s
)
select l.slot, l.symbols, case when l.is_everybody then l.symbols_missing else (select count(*)::int from jsonb_object_keys(l.symbols)) end as count
  from lacking l where l.symbols is not null order by l.slot desc limit %(limit)s;

-- pauses --
-- When the trader was stopped, in market time; an open end is still going on.
select vyx.market_time(e.at) as begin_at,
       (select vyx.market_time(n.at) from public.trader_events n
         where n.trader_id = e.trader_id and n.id > e.id and n.to_state = 'starting' order by n.id limit 1) as end_at
  from public.trader_events e
 where e.trader_id = %(trader_id)s and e.to_state in ('stopping', 'stopped')
 order by e.id;

-- covering_lease --
-- Whether a machine accounted for this trader's slot.
select exists (select from vyx.leases l where l.trader_id = %(trader_id)s and l.after < %(slot)s and l.through >= %(slot)s)
    or exists (select from public.trader_state s
                where s.trader_id = %(trader_id)s and s.owner is not null and s.lease_after < %(slot)s and vyx.screened_through(s) >= %(slot)s);

-- prune_leases --
-- So many leases that ended before an instant. A trader's leases follow each other, so what is left of its coverage has no new hole.
delete from vyx.leases l using (
  select o.trader_id, o.epoch from vyx.leases o where o.ended_at < %(before)s limit %(limit)s) old
 where l.trader_id = old.trader_id and l.epoch = old.epoch;
