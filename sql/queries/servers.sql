-- server_facts --
-- What a deployment depends on: clock, limits, size, and what the role's settings make of a new session.
select clock_timestamp() as clock, current_setting('server_version') as version, pg_is_in_recovery() as is_standby,
       current_setting('transaction_read_only') = 'on' as is_read_only,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int as connections_max,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections_used,
       pg_database_size(current_database()) as size_bytes, current_setting('IntervalStyle') as interval_style,
       current_setting('transaction_isolation') as isolation, current_user::text as role, pg_backend_pid() as backend_pid;

-- role_timeouts --
-- The statement timeouts that roles bring into their sessions.
select r.rolname::text as role, split_part(o.setting, '=', 2) as timeout
  from pg_db_role_setting s join pg_roles r on r.oid = s.setrole cross join unnest(s.setconfig) o (setting)
 where o.setting like 'statement_timeout=%' and (s.setdatabase = 0
       or s.setdatabase = (select oid from pg_database where datname = current_database()))
 order by 1;

-- growth --
-- Since when there are slots, as a measure of how long the database has been growing; null before the first.
select extract(epoch from now() - min(slot))::float8 / 86400 as days from vyx.slots;
