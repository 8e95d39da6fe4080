-- start_trader --
-- Ask for a trader to run; repeating it is harmless. Refuses with VX404, VX409, VX403.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open
  from vyx.start_trader_v1(%(trader_id)s, %(active_traders_max)s) s left join vyx.machines m on m.boot_id = s.owner cross join vyx.market_facts f;

-- stop_trader --
-- Ask for a trader to stop; repeating it is harmless. Refuses with VX404.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open
  from vyx.stop_trader_v1(%(trader_id)s) s left join vyx.machines m on m.boot_id = s.owner cross join vyx.market_facts f;

-- find_status --
-- The run state of one trader, whoever owns it.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner cross join vyx.market_facts f
 where s.trader_id = %(trader_id)s;

-- list_active --
-- A page of a user's starting and running traders, by id.
select s.trader_id, s.user_id, s.state::text as state, s.version, s.reason, s.last_error, s.error_count, s.retry_at, s.signal_count,
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner cross join vyx.market_facts f
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
       s.last_signal_at, s.started_at, s.stopped_at, m.machine_id, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open
  from public.trader_state s left join vyx.machines m on m.boot_id = s.owner cross join vyx.market_facts f
 where s.user_id = %(user_id)s and s.trader_id = any (%(trader_ids)s::uuid[])
 order by s.trader_id;
