-- register_machine --
-- A row for this boot; boot_id is the fencing token.
select boot_id, screened_through from vyx.register_machine_v1(%(machine_id)s);

-- lock_machine --
-- The session advisory lock that proves this process lives.
select pg_advisory_lock(7100, %(boot_id)s::int);

-- resume_machine --
-- After a lost connection: take the session lock again and say whether nobody reaped this boot meanwhile.
select pg_try_advisory_lock(7100, %(boot_id)s::int)
       and exists (select from vyx.machines where boot_id = %(boot_id)s and state <> 'dead') as alive;

-- beat --
-- Renew the heartbeat and report the work's progress. ok is false for a machine that is dead.
select ok, state::text, newest_closed from vyx.beat_v1(%(boot_id)s, %(owned)s, %(progress)s::jsonb);

-- lock_work --
-- The session of the work, known by this lock to whoever has to end it; sessions it had before are ended.
select vyx.end_sessions(%(boot_id)s, '{7105}'), pg_advisory_lock_shared(7105, %(boot_id)s::int);

-- end_sessions --
-- End the direct connections of this boot, and with them its session locks.
select vyx.end_sessions(%(boot_id)s);

-- check --
-- Compare what is kept with what it is kept of, and put right what differs; returns how many repairs there were.
select vyx.check_coordination_v1();

-- reap --
-- End silent machines; what they owned is free from then on.
select dead, dead_machine, freed from vyx.reap_v1(make_interval(secs => %(ttl_s)s), make_interval(secs => %(grace_s)s), judge => %(boot_id)s);

-- leave --
-- Give everything back and end this boot.
select vyx.leave_v1(%(boot_id)s);

-- try_ingest_lock --
-- The one machine in the cluster that feeds the market data holds this session lock.
select pg_try_advisory_lock(7101, 1);

-- give_ingest_lock_back --
-- Let another machine feed the market data. Unlocking what is not held would only warn.
select pg_advisory_unlock(7101, 1) from pg_locks
 where locktype = 'advisory' and classid = 7101 and objid = 1 and pid = pg_backend_pid()
union all select false limit 1;

-- live_boots --
-- Machines that should screen.
select boot_id from vyx.machines where state <> 'dead' order by boot_id;

-- limit_transaction --
-- An open fenced transaction hides its machine from the reaper: bound it well below the lease's ttl.
select set_config('idle_in_transaction_session_timeout', '500ms', true), set_config('statement_timeout', '5s', true), set_config('lock_timeout', '3s', true);

-- fence --
-- First in every transaction of a machine: a reaped machine is refused.
select vyx.fence_v1(%(boot_id)s);

-- position --
-- How far this boot has accounted for the ledger.
select screened_through from vyx.machines where boot_id = %(boot_id)s;

-- move_back --
-- A boot stands no further than this slot.
update vyx.machines set screened_through = %(slot)s where boot_id = %(boot_id)s and screened_through > %(slot)s;

-- advance_machine --
-- This machine has accounted for everything up to the slot; no row means another transaction of this boot was here.
update vyx.machines set screened_through = %(slot)s where boot_id = %(boot_id)s and screened_through = %(previous)s returning boot_id;

-- drain --
-- As a person in Studio would.
select public.drain_machine(%(machine)s);

-- machine_overview --
-- Those that live or died within the hour.
select machine_id, boot_id, state::text, heartbeat_age_s::float8, screened_through,
       greatest(0, extract(epoch from vyx.newest_closed_slot() - screened_through))::float8 as lag_s, traders
  from public.machine_overview
 where state <> 'dead' or ended_at > now() - interval '1 hour' order by boot_id;

-- prune_machines --
-- So many boots that died before an instant, and that no row names any more.
delete from vyx.machines m using (
  select o.boot_id from vyx.machines o
   where o.state = 'dead' and o.ended_at < %(before)s
     and not exists (select from public.trader_state s where s.owner = o.boot_id)
     and not exists (select from vyx.incidents i where i.boot_id = o.boot_id)
     and not exists (select from vyx.trader_counts c where c.owner = o.boot_id)
   limit %(limit)s) old
 where m.boot_id = old.boot_id;
