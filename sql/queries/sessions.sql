-- notify_proof --
-- Wake whoever listens on this channel.
select pg_notify(%(channel)s, '');

-- lock_proof --
-- A session lock that only a proof takes.
select pg_advisory_lock(7106, %(number)s);

-- sees_lock --
-- Whether this session is the one that took the lock.
select count(*) = 1 from pg_locks
 where locktype = 'advisory' and classid = 7106 and objid = %(number)s and pid = pg_backend_pid();

-- occupy --
-- Keep a server connection for as long as the transaction is open.
select pg_backend_pid();
