-- roster_changes --
-- The traders, of any machine, changed by transactions that were not over at an earlier horizon; beside each, and alone when there is
-- none: the horizon now, and how many traders this machine owns. One statement, so one snapshot.
select now.horizon, now.owned, changed.*
  from (select pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
               (select count(*) from public.trader_state s where s.owner = %(boot_id)s) as owned) now
  left join lateral (
    select s.trader_id, s.epoch, t.revision, s.state::text, s.resume_after, s.in_step, coalesce(s.owner = %(boot_id)s, false) as is_ours
      from public.trader_state s join public.traders t on t.id = s.trader_id
     where s.changed_in >= %(since)s::text::xid8) changed on true;

-- roster --
-- The traders this machine owns.
select s.trader_id, s.epoch, t.revision, s.state::text, s.resume_after, s.in_step
  from public.trader_state s join public.traders t on t.id = s.trader_id
 where s.owner = %(boot_id)s;

-- plans --
-- What to screen for these traders.
select t.id, t.user_id, t.plan::text, t.plan_hash, t.symbols, t.frequency, t.filter
  from public.traders t where t.id = any (%(trader_ids)s::uuid[]);

-- mark_running --
-- Loaded: starting becomes running. Only for leases still held.
update public.trader_state s set state = 'running', reason = null
  from unnest(%(trader_ids)s::uuid[], %(epochs)s::bigint[]) as loaded (trader_id, epoch)
 where s.trader_id = loaded.trader_id and s.owner = %(boot_id)s and s.epoch = loaded.epoch and s.state = 'starting';

-- fail_traders --
-- Cannot load or evaluate: error with what is wrong; the trigger ends the lease and sets retry_at. One that is being stopped just stops:
-- it must not stay in step with a machine that goes on to a slot it was not screened at.
update public.trader_state s
   set state = case s.state when 'stopping' then 'stopped' else 'error' end::public.trader_lifecycle,
       reason = case s.state when 'stopping' then 'stop' else failed.reason end, last_error = failed.message
  from unnest(%(trader_ids)s::uuid[], %(epochs)s::bigint[], %(reasons)s::text[], %(messages)s::text[]) as failed (trader_id, epoch, reason, message)
 where s.trader_id = failed.trader_id and s.owner = %(boot_id)s and s.epoch = failed.epoch and s.state in ('starting', 'running', 'stopping');

-- store_recompiled --
-- A plan of an older version, compiled anew; no row when its user saved another filter meanwhile. The revision rises, so that its
-- machine loads it like any change.
update public.traders t set plan = %(plan)s::jsonb, plan_hash = %(plan_hash)s, plan_summary = %(plan_summary)s
 where t.id = %(trader_id)s and t.revision = %(revision)s
returning t.id;
