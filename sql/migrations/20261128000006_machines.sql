-- Machines and leases. Dead = no heartbeat for ttl, or session lock gone and no heartbeat for grace. Numbers behind the choices:
-- a heartbeat's age counts from the server's own start, so an outage of Postgres buries nobody; locks vanish for all on a restart,
-- so the short grace does not count in the first 10 s after one.

-- machine_is_locked: does the process of this boot still hold its session advisory lock (7100, boot_id)?
create function vyx.machine_is_locked(boot bigint) returns boolean language sql volatile set search_path = '' as $$
  select exists (
    select from pg_catalog.pg_locks l
     where l.locktype = 'advisory' and l.classid = 7100 and l.objid = boot::int::oid and l.objsubid = 2 and l.granted
       and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()))
$$;

-- fence_v1: first in every transaction of a machine; holds off the reaper until it ends, refuses a machine that was reaped.
-- Key share keeps reap_v1 and leave_v1 out (they lock for update) and nothing else: with a plain share lock the screener's
-- advance_machine waited for every open ingest transaction of its own machine.
create function vyx.fence_v1(boot bigint) returns void language plpgsql set search_path = '' as $$
begin
  perform from vyx.machines m where m.boot_id = boot and m.state <> 'dead' for key share;
  if not found then raise exception 'machine boot % is dead', boot using errcode = 'VXFEN'; end if;
end $$;

-- register_machine_v1: a machine joins at the newest accounted slot; what its future traders missed they bring as resume_after.
create function vyx.register_machine_v1(machine text) returns vyx.machines language plpgsql set search_path = '' as $$
declare m vyx.machines;
begin
  insert into vyx.machines (machine_id, screened_through)
  values (machine, coalesce(vyx.newest_closed_slot(), 'epoch')) returning * into m;
  insert into vyx.machine_heartbeats (boot_id) values (m.boot_id);
  return m;
end $$;

-- beat_v1: one round trip per machine and second: renew, and everything fair shares need. Counted in the table: sums of what
-- machines last reported are stale and left traders unclaimed for 1-10 s.
create function vyx.beat_v1(boot bigint, owned_now int, out ok boolean, out state vyx.machine_state, out alive bigint, out total bigint, out unowned bigint, out mine bigint, out newest_closed timestamptz)
language plpgsql set search_path = '' as $$
begin
  select count(*) into alive from vyx.machines m where m.state = 'alive';
  select count(*), count(*) filter (where s.owner is null), count(*) filter (where s.owner = boot) into total, unowned, mine from public.trader_state s where s.state in ('starting', 'running');
  update vyx.machine_heartbeats h set heartbeat_at = clock_timestamp(), owned = owned_now, active = total
    from vyx.machines m where h.boot_id = boot and m.boot_id = boot and m.state <> 'dead' returning m.state into state;
  ok := found;
  newest_closed := vyx.newest_closed_slot();
end $$;

-- machine_is_silent: dead by the definition above; reaping it is another matter.
create function vyx.machine_is_silent(boot bigint, ttl interval, grace interval, clock timestamptz) returns boolean language sql volatile set search_path = '' as $$
  select exists (
    select from vyx.machine_heartbeats h, pg_postmaster_start_time() server_start where h.boot_id = boot and (
      greatest(h.heartbeat_at, server_start) < clock - ttl
      or (h.heartbeat_at < clock - grace and clock > server_start + interval '10 s' and not vyx.machine_is_locked(boot))))
$$;

-- end_session: a hung process keeps its direct connection, and with it the ingest lock: nobody could feed the market until it wakes.
-- Not our own session (tests hold several machines' locks), and a role that may not terminate another's is only told.
create function vyx.end_session(boot bigint) returns void language plpgsql set search_path = '' as $$
begin
  perform pg_catalog.pg_terminate_backend(l.pid) from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.classid = 7100 and l.objid = boot::int::oid and l.objsubid = 2 and l.granted
      and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
      and l.pid <> pg_catalog.pg_backend_pid();
exception when insufficient_privilege then
  raise warning 'the session of machine boot % cannot be ended by %: if it hangs, it keeps the ingest lock', boot, current_user;
end $$;

-- reap_v1: bury dead machines, free their traders and end their sessions. Skips a machine with an open fenced transaction. At most
-- 20,000 traders at a time (0.5 s), so that a beat of the machine that reaps is never late for it; the next call goes on.
create function vyx.reap_v1(ttl interval, grace interval, now timestamptz default null) returns table (dead bigint, dead_machine text, freed bigint)
language plpgsql set search_path = '' as $$
declare
  clock timestamptz := coalesce(now, clock_timestamp());
begin
  for dead, dead_machine in
    select m.boot_id, m.machine_id from vyx.machines m
     where m.state <> 'dead' and vyx.machine_is_silent(m.boot_id, ttl, grace, clock)
        or m.state = 'dead' and m.ended_at > clock - interval '1 hour' and exists (select from public.trader_state s where s.owner = m.boot_id)
     order by m.boot_id for update skip locked
  loop
    -- read again under the lock: the heartbeat lives in a row of its own
    continue when not exists (select from vyx.machines m where m.boot_id = dead and m.state = 'dead') and not vyx.machine_is_silent(dead, ttl, grace, clock);
    with owned as (
      select s.trader_id from public.trader_state s where s.owner = dead and s.state in ('starting', 'running') limit 20000)
    update public.trader_state s set owner = null from owned where s.trader_id = owned.trader_id;
    get diagnostics freed = row_count;
    update public.trader_state s set state = 'stopped', reason = 'stop' where s.owner = dead and s.state = 'stopping';
    update vyx.machines m set state = 'dead', ended_at = clock where m.boot_id = dead and m.state <> 'dead';
    perform vyx.end_session(dead);
    return next;
  end loop;
end $$;

-- claim_v1: take up to n free traders; SKIP LOCKED lets machines claim side by side.
create function vyx.claim_v1(boot bigint, n int) returns bigint language plpgsql set search_path = '' as $$
declare claimed bigint;
begin
  perform from vyx.machines m where m.boot_id = boot and m.state = 'alive' for key share;
  if not found then return 0; end if;
  with free as (
    select s.trader_id from public.trader_state s
     where s.owner is null and s.state in ('starting', 'running') limit n for update skip locked)
  update public.trader_state s set owner = boot from free where s.trader_id = free.trader_id;
  get diagnostics claimed = row_count;
  return claimed;
end $$;

-- release_v1: give traders back after the slot in hand; null ids are all of them. Those being stopped are stopped.
create function vyx.release_v1(boot bigint, ids uuid[] default null) returns bigint language plpgsql set search_path = '' as $$
declare released bigint;
begin
  perform vyx.fence_v1(boot);
  update public.trader_state s set state = 'stopped', reason = 'stop'
   where s.owner = boot and s.state = 'stopping' and (ids is null or s.trader_id = any (ids));
  update public.trader_state s set owner = null
   where s.owner = boot and (ids is null or s.trader_id = any (ids));
  get diagnostics released = row_count;
  return released;
end $$;

-- leave_v1: the graceful end of a machine. It waits for the machine's other transactions first: a claim still in flight on another
-- connection would not be seen by the release, and its traders would belong to a dead boot for ever.
create function vyx.leave_v1(boot bigint) returns bigint language plpgsql set search_path = '' as $$
declare released bigint;
begin
  perform from vyx.machines m where m.boot_id = boot and m.state <> 'dead' for update;
  if not found then raise exception 'machine boot % is dead', boot using errcode = 'VXFEN'; end if;
  released := vyx.release_v1(boot);
  update vyx.machines m set state = 'dead', ended_at = clock_timestamp() where m.boot_id = boot;
  return released;
end $$;

-- retry_due_v1: traders in error whose retry_at has come start again.
create function vyx.retry_due_v1(now timestamptz default null) returns bigint language plpgsql set search_path = '' as $$
declare retried bigint;
begin
  with due as (
    select s.trader_id from public.trader_state s
     where s.retry_at <= coalesce(now, clock_timestamp()) and s.state = 'error' limit 1000 for update skip locked)
  update public.trader_state s set state = 'starting', reason = 'retry' from due where s.trader_id = due.trader_id;
  get diagnostics retried = row_count;
  return retried;
end $$;

create function public.drain_machine(machine text) returns bigint language plpgsql set search_path = '' as $$
declare drained bigint;
begin
  update vyx.machines m set state = 'draining' where m.machine_id = machine and m.state = 'alive';
  get diagnostics drained = row_count;
  if drained = 0 and not exists (select from vyx.machines m where m.machine_id = machine and m.state = 'draining') then
    raise exception 'no live machine is called %', machine using errcode = 'VX404';
  end if;
  return drained;
end $$;
comment on function public.drain_machine is 'Take a machine out: it finishes the slot in hand, gives its traders back and claims no more.';
revoke all on function public.drain_machine from public, anon, authenticated;
grant execute on function public.drain_machine to service_role;
