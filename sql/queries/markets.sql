-- the_market --
-- The market this database holds; no row before the first start.
select source, speed, anchor_market_at, anchor_wall_at, ends_at, vyx.market_time(), vyx.newest_slot(), clock_timestamp(), chosen_by_auto from vyx.markets;

-- put_market --
-- Name the market of this database; the first process to do so decides.
insert into vyx.markets (source, chosen_by_auto, speed, anchor_market_at, anchor_wall_at, ends_at)
values (%(source)s, %(chosen_by_auto)s, %(speed)s, %(anchor_market_at)s, %(anchor_wall_at)s, %(ends_at)s)
on conflict do nothing;

-- anchor_market --
-- A file market goes on where it stood, at this speed.
update vyx.markets set speed = %(speed)s, anchor_market_at = coalesce(vyx.newest_slot(), vyx.market_time()), anchor_wall_at = clock_timestamp();

-- summary --
-- What /health says about the whole service: beside the market, the tasks of living machines that make no progress in their own bound,
-- and machines that do not beat.
select m.source as market_source, vyx.newest_slot() as newest_slot,
       (select count(*) from vyx.machines a where a.state = 'alive') as machines_alive,
       coalesce(extract(epoch from greatest(interval '0', vyx.newest_closed_slot()
         - (select min(a.screened_through) from vyx.machines a where a.state <> 'dead'))), 0)::float8 as lag_s,
       coalesce((select array_agg(r.machine_id order by r.machine_id) from vyx.recomputing_machines r), '{}') as recomputing,
       coalesce((select sum(r.mismatches) from vyx.recomputing_machines r), 0)::int as mismatches,
       array(select format('%s: %s has made no progress for %s s', a.machine_id, task.key, task.value ->> 'idle_s')
               from vyx.machines a join vyx.machine_heartbeats h using (boot_id), jsonb_each(h.progress) task
              where a.state <> 'dead' and (task.value ->> 'idle_s')::float8 > (task.value ->> 'bound_s')::float8
              order by a.boot_id, task.key) as overdue,
       array(select format('%s has not beaten for %s s', a.machine_id, round(extract(epoch from clock_timestamp() - h.heartbeat_at)))
               from vyx.machines a left join vyx.machine_heartbeats h using (boot_id)
              where a.state <> 'dead' and h.heartbeat_at < clock_timestamp() - interval '3 s' order by a.boot_id) as silent,
       f.*
  from vyx.market_facts f left join vyx.markets m on true;

-- ledger --
-- Where the market stands.
select (select source from vyx.markets) as market, (select count(*) from vyx.slots where state = 'open') as open,
       (select count(*) from vyx.slots where state = 'outage') as outage, f.*
  from vyx.market_facts f;

-- forget_simulated_market --
-- Make room for a real market where a simulated one was only a stand-in; false: it stays.
select vyx.forget_simulated_market_v1(%(demo)s);

-- jump --
-- A file market goes on at another instant: between two of its files there is nothing.
update vyx.markets set anchor_market_at = %(at)s, anchor_wall_at = clock_timestamp();
