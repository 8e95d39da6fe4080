-- list_versions --
-- The saved versions of a trader, newest first.
select v.number, v.filter, v.symbols, v.frequency, v.saved_at, v.plan_hash
  from public.trader_versions v where v.trader_id = %(trader_id)s
 order by v.number desc limit %(limit)s;

-- find_version --
-- One of them.
select v.number, v.filter, v.symbols, v.frequency, v.saved_at, v.plan_hash
  from public.trader_versions v where v.trader_id = %(trader_id)s and v.number = %(number)s;

-- begin_versions --
-- These versions screen from where their traders stand now; one that another machine began before keeps its beginning.
update public.trader_versions v set screened_after = vyx.screened_through(s)
  from unnest(%(trader_ids)s::uuid[], %(numbers)s::bigint[]) as loaded (trader_id, number)
  join public.trader_state s on s.trader_id = loaded.trader_id
 where v.trader_id = loaded.trader_id and v.number = loaded.number and v.screened_after is null;

-- screened_versions --
-- The versions that screened a trader, in the order in which they did: number and first slot's predecessor, with all it takes to replay.
select v.number, v.screened_after, v.plan::text as plan, v.plan_hash, v.symbols, v.frequency
  from public.trader_versions v where v.trader_id = %(trader_id)s and v.screened_after is not null
 order by v.number;

-- versions_of --
-- Plans of given versions of given traders, for a recomputation.
select v.trader_id, v.plan::text as plan, v.plan_hash, v.symbols, v.frequency
  from unnest(%(trader_ids)s::uuid[], %(numbers)s::bigint[]) as asked (trader_id, number)
  join public.trader_versions v on v.trader_id = asked.trader_id and v.number = asked.number;

-- prune_versions --
-- So many versions that were replaced before an instant: no slot of theirs can be audited. The current one of each trader stays.
delete from public.trader_versions v using (
  select o.trader_id, o.number from public.trader_versions o
   where o.saved_at < %(before)s
     and exists (select from public.trader_versions n where n.trader_id = o.trader_id and n.number > o.number and n.saved_at < %(before)s)
   limit %(limit)s) old
 where v.trader_id = old.trader_id and v.number = old.number;

-- screened_traders --
-- Traders that a machine has screened, in the order of their ids.
select v.trader_id from public.trader_versions v where v.screened_after is not null group by v.trader_id order by v.trader_id;
