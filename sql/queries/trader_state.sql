-- start_trader --
-- Ask for a trader to run; repeating it is harmless. Refuses with VX404, VX409, VX403.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, case when s.signal_day = vyx.market_day(f.market_at) then s.signals_that_day else 0 end as signals_today,
       case when vyx.market_day(s.flooding_since) = vyx.market_day(f.market_at) then s.flooding_since end as flooding_since,
       vyx.signals_per_day(s.user_id) as signals_per_day, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason
  from vyx.start_trader_v1(%(trader_id)s, %(active_traders_max)s) s left join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead' cross join vyx.market_facts f;

-- stop_trader --
-- Ask for a trader to stop; repeating it is harmless. Refuses with VX404.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, case when s.signal_day = vyx.market_day(f.market_at) then s.signals_that_day else 0 end as signals_today,
       case when vyx.market_day(s.flooding_since) = vyx.market_day(f.market_at) then s.flooding_since end as flooding_since,
       vyx.signals_per_day(s.user_id) as signals_per_day, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason
  from vyx.stop_trader_v1(%(trader_id)s) s left join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead' cross join vyx.market_facts f;

-- find_status --
-- The run state of one trader, whoever owns it.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, case when s.signal_day = vyx.market_day(f.market_at) then s.signals_that_day else 0 end as signals_today,
       case when vyx.market_day(s.flooding_since) = vyx.market_day(f.market_at) then s.flooding_since end as flooding_since,
       vyx.signals_per_day(s.user_id) as signals_per_day, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead' cross join vyx.market_facts f
 where s.trader_id = %(trader_id)s;

-- list_active --
-- A page of a user's starting and running traders, by id.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, case when s.signal_day = vyx.market_day(f.market_at) then s.signals_that_day else 0 end as signals_today,
       case when vyx.market_day(s.flooding_since) = vyx.market_day(f.market_at) then s.flooding_since end as flooding_since,
       vyx.signals_per_day(s.user_id) as signals_per_day, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead' cross join vyx.market_facts f
 where s.user_id = %(user_id)s and s.state in ('starting', 'running') and s.trader_id > %(after_id)s::uuid
 order by s.trader_id
 limit %(limit)s;

-- start_traders --
-- Ask for several traders of one user to run (null: all that do not); a row for each with no code, or with the refusal's.
select trader, code, message, detail from vyx.start_traders_v1(%(user_id)s, %(trader_ids)s::uuid[], %(active_traders_max)s);

-- stop_traders --
-- Ask for several traders of one user to stop (null: all that run); a row for each that did not stand still.
select trader from vyx.stop_traders_v1(%(user_id)s, %(trader_ids)s::uuid[]);

-- list_statuses --
-- The run state of several traders of one user, by id.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, case when s.signal_day = vyx.market_day(f.market_at) then s.signals_that_day else 0 end as signals_today,
       case when vyx.market_day(s.flooding_since) = vyx.market_day(f.market_at) then s.flooding_since end as flooding_since,
       vyx.signals_per_day(s.user_id) as signals_per_day, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner cross join vyx.market_facts f
 where s.user_id = %(user_id)s and s.trader_id = any (%(trader_ids)s::uuid[])
 order by s.trader_id;

-- list_owned --
-- The traders this machine owns.
select s.trader_id, s.epoch, t.revision, s.state::text, s.resume_after, s.in_step
  from public.trader_state s join public.traders t on t.id = s.trader_id
 where s.owner = %(boot_id)s;

-- owned_changes --
-- The traders, of any machine, changed by transactions that were not over at an earlier horizon; beside each, and alone when there is
-- none: the horizon now, and how many traders this machine owns. One statement, so one snapshot.
select now.horizon, now.owned, changed.*
  from (select pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
               (select count(*) from public.trader_state s where s.owner = %(boot_id)s) as owned) now
  left join lateral (
    select s.trader_id, s.epoch, t.revision, s.state::text, s.resume_after, s.in_step, coalesce(s.owner = %(boot_id)s, false) as is_ours
      from public.trader_state s join public.traders t on t.id = s.trader_id
     where s.changed_in >= %(since)s::text::xid8) changed on true;

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

-- put_in_step --
-- Traders that have caught up follow the machine from here.
update public.trader_state s set in_step = true, resume_after = %(slot)s
  from unnest(%(trader_ids)s::uuid[], %(epochs)s::bigint[]) as caught_up (trader_id, epoch)
 where s.trader_id = caught_up.trader_id and s.owner = %(boot_id)s and s.epoch = caught_up.epoch and not s.in_step;

-- advance_traders --
-- Traders that are catching up have been screened through the slot.
update public.trader_state s set resume_after = %(slot)s
  from unnest(%(trader_ids)s::uuid[], %(epochs)s::bigint[]) as behind (trader_id, epoch)
 where s.trader_id = behind.trader_id and s.owner = %(boot_id)s and s.epoch = behind.epoch and not s.in_step and s.resume_after < %(slot)s;

-- retry_due --
-- Up to n traders in error whose time has come start again.
select vyx.retry_due_v1(n => %(n)s);

-- start_all_of --
-- Start every trader of a user.
select vyx.start_trader_v1(s.trader_id) from public.trader_state s where s.user_id = %(user_id)s and s.state = 'stopped';

-- count_by_state --
-- How many in which state.
select state::text, count(*) from public.trader_state group by state;
