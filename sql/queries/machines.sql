-- register_machine --
-- A row for this boot; boot_id is the fencing token.
select boot_id, screened_through from vyx.register_machine_v1(%(machine_id)s);

-- resume_machine --
-- After a lost connection: take the session lock again and say whether nobody buried this boot meanwhile.
select pg_try_advisory_lock(7100, %(boot_id)s::int)
       and exists (select from vyx.machines where boot_id = %(boot_id)s and state <> 'dead') as alive;

-- lock_machine --
-- The session advisory lock that proves this process lives.
select pg_advisory_lock(7100, %(boot_id)s::int);

-- beat --
-- Renew the heartbeat; returns what fair shares need. ok is false for a buried machine.
select ok, state::text, alive, total, unowned, mine, newest_closed from vyx.beat_v1(%(boot_id)s, %(owned)s);

-- reap --
-- Bury silent machines and free their traders.
select dead, dead_machine, freed from vyx.reap_v1(make_interval(secs => %(ttl_s)s), make_interval(secs => %(grace_s)s));

-- claim --
-- Take up to n free traders.
select vyx.claim_v1(%(boot_id)s, %(n)s);

-- release --
-- Give traders back; null ids are all of them.
select vyx.release_v1(%(boot_id)s, %(trader_ids)s::uuid[]);

-- leave --
-- Give everything back and end this boot.
select vyx.leave_v1(%(boot_id)s);

-- retry_due --
-- Traders in error whose time has come start again.
select vyx.retry_due_v1();

-- stop_beyond_tiers --
-- After a downgrade the newest traders beyond the tier stop.
select vyx.stop_beyond_tiers_v1();

-- try_ingest_lock --
-- The one machine in the cluster that feeds the market data holds this session lock.
select pg_try_advisory_lock(7101, 1);

-- live_boots --
-- Machines that should screen.
select boot_id from vyx.machines where state <> 'dead' order by boot_id;

-- cancel_jobs_of_the_dead --
-- Jobs on the queues of buried machines would stay todo for ever.
delete from procrastinate.procrastinate_jobs j
 where j.status = 'todo' and j.queue_name like 'm.%%'
   and not exists (select from vyx.machines m where m.state <> 'dead' and j.queue_name = 'm.' || m.boot_id);

-- dead_letters --
-- How many jobs failed for good.
select count(*) from public.dead_letters;
