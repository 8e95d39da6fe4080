-- start_trader --
-- Ask for a trader to run; repeating it is harmless. Refuses with VX404, VX409, VX403.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through
  from vyx.start_trader_v1(%(trader_id)s, %(active_traders_max)s) s left join vyx.machines m on m.boot_id = s.owner;

-- stop_trader --
-- Ask for a trader to stop; repeating it is harmless. Refuses with VX404.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through
  from vyx.stop_trader_v1(%(trader_id)s) s left join vyx.machines m on m.boot_id = s.owner;

-- find_status --
-- The run state of one trader, whoever owns it.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner
 where s.trader_id = %(trader_id)s;

-- list_active --
-- A page of a user's starting and running traders, by id.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner
 where s.user_id = %(user_id)s and s.state in ('starting', 'running') and s.trader_id > %(after_id)s::uuid
 order by s.trader_id
 limit %(limit)s;

-- find_owner --
-- Whose trader it is; no row when there is none.
select s.user_id from public.trader_state s where s.trader_id = %(trader_id)s;
