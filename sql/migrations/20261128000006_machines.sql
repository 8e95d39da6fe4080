-- Machines and leases. Dead = no heartbeat for ttl, or session lock gone and no heartbeat for grace.
-- What a dead machine owned is free: nobody moves its traders one by one, whoever has room claims them from it. So reaping and leaving
-- are one update of one row, however many traders a machine has (freeing 100,000 took 6 s, in a statement that may last 5).

-- server_lives: emptied when Postgres recovers from a crash, which does not change pg_postmaster_start_time().
create unlogged table vyx.server_lives (
  only_one       boolean primary key default true,
  readable_since timestamptz not null default clock_timestamp(),
  constraint one_row_per_life check (only_one)
);
comment on table vyx.server_lives is 'Since when the tables can be read: the first reader after a crash writes the row. Unlogged on purpose: recovery empties it.';
insert into vyx.server_lives default values;
alter table vyx.server_lives enable row level security;
grant all on vyx.server_lives to service_role;

-- readable_since: since when machines have been able to beat. Silence before that says nothing about a machine.
create function vyx.readable_since() returns timestamptz language plpgsql set search_path = '' as $$
declare since timestamptz;
begin
  select l.readable_since into since from vyx.server_lives l;
  if since is null then
    insert into vyx.server_lives default values on conflict do nothing;
    since := clock_timestamp();
  end if;
  return greatest(since, pg_postmaster_start_time());
end $$;

-- machine_is_locked: does the process of this boot still hold its session advisory lock (7100, boot_id)?
create function vyx.machine_is_locked(boot bigint) returns boolean language sql volatile set search_path = '' as $$
  select exists (
    select from pg_catalog.pg_locks l
     where l.locktype = 'advisory' and l.classid = 7100 and l.objid = boot::int::oid and l.objsubid = 2 and l.granted
       and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()))
$$;

-- fence_v1: first in every transaction of a machine; holds off the reaper until it ends, refuses a machine that was reaped.
-- Key share keeps reap_v1 and leave_v1 out (they lock for update) and nothing else: with a plain share lock the screener's
-- advance_machine waited for every open ingest transaction of its own machine. Whose transaction it is, the triggers that refuse edits
-- by hand read from vyx.boot.
create function vyx.fence_v1(boot bigint) returns void language plpgsql set search_path = '' as $$
begin
  perform from vyx.machines m where m.boot_id = boot and m.state <> 'dead' for key share;
  if not found then raise exception 'machine boot % is dead', boot using errcode = 'VXFEN'; end if;
  perform set_config('vyx.boot', boot::text, true);
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

-- beat_v1: renew; one row, whatever the number of traders. A row deleted by hand comes back, and is reported.
create function vyx.beat_v1(boot bigint, owned_now int, progress_now jsonb default '{}', out ok boolean, out state vyx.machine_state, out newest_closed timestamptz)
language plpgsql set search_path = '' as $$
declare is_new boolean;
begin
  select m.state into state from vyx.machines m where m.boot_id = boot and m.state <> 'dead';
  ok := found;
  if not ok then return; end if;
  insert into vyx.machine_heartbeats as h (boot_id, owned, progress) values (boot, owned_now, progress_now)
  on conflict (boot_id) do update
     set heartbeat_at = clock_timestamp(), owned = excluded.owned, progress = excluded.progress,
         beating_since = case when h.heartbeat_at > clock_timestamp() - interval '3 s' and h.beating_since <= clock_timestamp() then h.beating_since else clock_timestamp() end
  returning h.xmax = 0 into is_new;
  if is_new then
    insert into vyx.incidents (kind, boot_id, message) values ('put right', boot, 'its row in vyx.machine_heartbeats was deleted and came back with the next beat');
  end if;
  newest_closed := vyx.newest_closed_slot();
end $$;

-- machine_is_silent: dead by the definition above; reaping it is another matter. Age counts from when Postgres could be reached, and
-- without a lost lock only while the machine that judges could beat itself: an outage moves no lease, read-only or full disks included.
-- Locks vanish for all on a restart: the short grace does not count in the first 10 s after one.
create function vyx.machine_is_silent(boot bigint, ttl interval, grace interval, clock timestamptz, judge bigint default null) returns boolean language plpgsql set search_path = '' as $$
declare
  readable timestamptz := vyx.readable_since();
  heard timestamptz;
  judged_since timestamptz;
begin
  select greatest(coalesce(h.heartbeat_at, m.started_at), readable) into heard
    from vyx.machines m left join vyx.machine_heartbeats h using (boot_id) where m.boot_id = boot;
  select h.beating_since into judged_since from vyx.machine_heartbeats h where h.boot_id = judge;
  return greatest(heard, judged_since) < clock - ttl
      or heard < clock - grace and clock > readable + interval '10 s' and not vyx.machine_is_locked(boot);
end $$;

-- end_sessions: a hung process keeps its direct connections, and with them the ingest lock: nobody could feed the market until it wakes.
-- Those of the boot are known by their locks: (7100, boot) of the beat, (7105, boot) of the work. Not our own session (tests hold several
-- machines' locks), and a role that may not terminate another's is only warned.
create function vyx.end_sessions(boot bigint, classes int[] default '{7100,7105}') returns void language plpgsql set search_path = '' as $$
begin
  perform pg_catalog.pg_terminate_backend(l.pid) from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.classid::bigint = any (classes) and l.objid = boot::int::oid and l.objsubid = 2 and l.granted
      and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
      and l.pid <> pg_catalog.pg_backend_pid();
exception when insufficient_privilege then
  raise warning 'the sessions of machine boot % cannot be ended by %: if it hangs, it keeps the ingest lock', boot, current_user;
end $$;

-- reap_v1: end dead machines and their sessions; their traders are free from that moment on. A machine with an open fenced transaction,
-- or that another one is reaping, is skipped. freed: how many traders there are to claim.
create function vyx.reap_v1(ttl interval, grace interval, now timestamptz default null, judge bigint default null) returns table (dead bigint, dead_machine text, freed bigint)
language plpgsql set search_path = '' as $$
declare
  clock timestamptz := coalesce(now, clock_timestamp());
begin
  for dead, dead_machine in
    select m.boot_id, m.machine_id from vyx.machines m
     where m.state <> 'dead' and m.boot_id is distinct from judge and vyx.machine_is_silent(m.boot_id, ttl, grace, clock, judge)
     order by m.boot_id for update skip locked
  loop
    -- read again under the lock: the heartbeat lives in a row of its own
    continue when not vyx.machine_is_silent(dead, ttl, grace, clock, judge);
    update vyx.machines m set state = 'dead', ended_at = clock where m.boot_id = dead;
    perform vyx.end_sessions(dead);
    select coalesce(sum(c.traders), 0) into freed from vyx.trader_counts c where c.owner = dead;
    return next;
  end loop;
end $$;

-- shares_v1: what a fair share is made of. total: starting and running traders; unowned: those no living machine holds.
create function vyx.shares_v1(boot bigint, out state vyx.machine_state, out alive bigint, out total bigint, out unowned bigint, out mine bigint)
language sql set search_path = '' as $$
  select (select m.state from vyx.machines m where m.boot_id = boot),
         (select count(*) from vyx.machines m where m.state = 'alive'),
         coalesce(sum(c.traders), 0)::bigint,
         coalesce(sum(c.traders) filter (where not vyx.is_held(c.owner)), 0)::bigint,
         coalesce(sum(c.traders) filter (where c.owner = boot), 0)::bigint
    from (select owner, sum(traders) as traders from vyx.trader_counts group by owner) c
$$;

-- claim_v1: take up to n free traders, those of nobody first, then those of the dead; SKIP LOCKED lets machines claim side by side.
-- No sequential scan: the first pages are full of traders already taken, and every piece would read them again.
create function vyx.claim_v1(boot bigint, n int) returns bigint language plpgsql set search_path = '' set enable_seqscan = off as $$
declare
  claimed bigint;
  moved bigint;
  victim bigint;
begin
  perform from vyx.machines m where m.boot_id = boot and m.state = 'alive' for key share;
  if not found then return 0; end if;
  with free as (
    select s.trader_id from public.trader_state s
     where s.owner is null and s.state in ('starting', 'running') limit n for update skip locked)
  update public.trader_state s set owner = boot from free where s.trader_id = free.trader_id;
  get diagnostics claimed = row_count;
  for victim in
    select c.owner from vyx.trader_counts c where c.owner is not null and not vyx.is_held(c.owner)
     group by c.owner having sum(c.traders) > 0 order by c.owner
  loop
    exit when claimed >= n;
    with free as (
      select s.trader_id from public.trader_state s
       where s.owner = victim and s.state in ('starting', 'running') limit n - claimed for update skip locked)
    update public.trader_state s set owner = boot from free where s.trader_id = free.trader_id;
    get diagnostics moved = row_count;
    claimed := claimed + moved;
  end loop;
  return claimed;
end $$;

-- settle_v1: traders that were being stopped when their machine died are stopped.
create function vyx.settle_v1(n int) returns bigint language plpgsql set search_path = '' as $$
declare settled bigint;
begin
  with orphans as (
    select s.trader_id from public.trader_state s where s.state = 'stopping' and not vyx.is_held(s.owner) limit n for update skip locked)
  update public.trader_state s set state = 'stopped', reason = 'stop' from orphans where s.trader_id = orphans.trader_id;
  get diagnostics settled = row_count;
  return settled;
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

-- leave_v1: the graceful end of a machine; everything it owns is free at once. It waits for the machine's transactions in flight first.
-- Returns how many traders are to be claimed.
create function vyx.leave_v1(boot bigint) returns bigint language plpgsql set search_path = '' as $$
declare released bigint;
begin
  perform from vyx.machines m where m.boot_id = boot and m.state <> 'dead' for update;
  if not found then raise exception 'machine boot % is dead', boot using errcode = 'VXFEN'; end if;
  update vyx.machines m set state = 'dead', ended_at = clock_timestamp() where m.boot_id = boot;
  select coalesce(sum(c.traders), 0) into released from vyx.trader_counts c where c.owner = boot;
  return released;
end $$;

-- retry_due_v1: traders in error whose retry_at has come start again.
create function vyx.retry_due_v1(now timestamptz default null, n int default 1000) returns bigint language plpgsql set search_path = '' as $$
declare retried bigint;
begin
  with due as (
    select s.trader_id from public.trader_state s
     where s.retry_at <= coalesce(now, clock_timestamp()) and s.state = 'error' limit n for update skip locked)
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
