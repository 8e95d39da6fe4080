-- Views for people: in Studio, psql, and `vyx status`.

-- screened_through: how far a trader is accounted for.
create function vyx.screened_through(s public.trader_state) returns timestamptz language sql stable set search_path = '' as $$
  select case when s.in_step then (select m.screened_through from vyx.machines m where m.boot_id = s.owner) else s.resume_after end
$$;

-- before_first_slot: a trader that was started before the ledger began has nothing to be screened before it.
create function vyx.before_first_slot() returns timestamptz language sql stable set search_path = '' as $$
  select min(slot) - interval '1 min' from vyx.slots
$$;

-- market_facts: one row, whatever is missing: the market's clock and where the ledger stands, in one snapshot with what is compared to them.
create view vyx.market_facts with (security_invoker = true) as
  select vyx.market_time() as market_at, m.ends_at, coalesce(m.speed, 1) as speed, closed.slot as newest_closed,
         coalesce(closed.state = 'outage', false) as newest_closed_is_outage, closed.reason as outage_reason,
         (select min(o.slot) from vyx.slots o where o.state = 'open') as oldest_open,
         (select min(f.slot) from vyx.slots f) as first_slot, p.stage, p.reason as stage_reason
    from (values (true)) one (only_one)
    left join vyx.markets m using (only_one)
    left join vyx.market_progress p using (only_one)
    left join lateral (select s.slot, s.state, s.reason from vyx.slots s where s.state <> 'open' order by s.slot desc limit 1) closed on true;
comment on view vyx.market_facts is 'What the health of a trader is derived from, beside its own row.';
grant select on vyx.market_facts to service_role;

create view public.trader_overview with (security_invoker = true) as
  select t.id, t.name, s.state, s.reason, s.signal_count, s.last_signal_at, m.machine_id, vyx.screened_through(s) as screened_through,
         s.last_error, s.retry_at, s.started_at, s.stopped_at, t.user_id, t.plan_summary ->> 'trigger' as trigger
    from public.traders t join public.trader_state s on s.trader_id = t.id left join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead';
comment on view public.trader_overview is 'One line per trader.';

create view public.machine_overview with (security_invoker = true) as
  select m.machine_id, m.boot_id, m.state, m.started_at, m.ended_at, h.heartbeat_at,
         round(extract(epoch from clock_timestamp() - h.heartbeat_at)::numeric, 1) as heartbeat_age_s, m.screened_through,
         case when m.state <> 'dead' then (select count(*) from public.trader_state s where s.owner = m.boot_id) else 0 end as traders
    from vyx.machines m left join vyx.machine_heartbeats h using (boot_id);
comment on view public.machine_overview is 'One line per boot of a worker.';

create view public.slot_overview with (security_invoker = true) as
  select s.slot, s.state, s.symbols_expected, s.symbols_missing, s.missing, s.reason, s.opened_at, s.closed_at,
         (select count(*) from vyx.machines m where m.state <> 'dead' and m.screened_through < s.slot) as machines_behind
    from vyx.slots s;
comment on view public.slot_overview is 'The ledger of slots, with how many live machines have not accounted for each yet.';

create view public.signal_feed with (security_invoker = true) as
  select s.id, t.name as trader, s.symbol, s.timeframe, s.triggered_at, s.price, s.shown, s.late, s.created_at, s.trader_id, s.user_id, s.forming
    from public.signals s join public.traders t on t.id = s.trader_id;
comment on view public.signal_feed is 'Signals with the name of their trader; order by id desc for the newest.';

revoke all on public.trader_overview, public.machine_overview, public.slot_overview, public.signal_feed from anon, authenticated;
grant select on public.trader_overview, public.machine_overview, public.slot_overview, public.signal_feed to service_role;

create view public.dead_letters with (security_invoker = true) as
  select 'signal' as kind, f.failed_id as id, f.trader_id, f.symbol || ' at ' || f.triggered_at as about, f.reason, f.failed_at
    from public.signals_failed f
  union all
  select 'job', j.id, null, j.task_name || ' on ' || j.queue_name || ' ' || j.args, 'failed after ' || j.attempts || ' attempts',
         (select max(e.at) from procrastinate.procrastinate_events e where e.job_id = j.id)
    from procrastinate.procrastinate_jobs j where j.status in ('failed', 'aborted');
comment on view public.dead_letters is 'What failed for good and waits for `vyx redeliver`: signals that the database refused, and jobs. A slot is screened whatever becomes of its job.';
revoke all on public.dead_letters from anon, authenticated;
grant select on public.dead_letters to service_role;
