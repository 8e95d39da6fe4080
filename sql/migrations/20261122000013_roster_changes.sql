-- What changed among a machine's traders since it looked, without reading all of them.
alter table public.trader_state add column changed_in xid8 not null default pg_current_xact_id();
create index trader_state_changed_in_idx on public.trader_state (changed_in);
comment on column public.trader_state.changed_in is 'The transaction that last changed state, owner or what is screened. A machine reads the rows of transactions that were not over when it looked last: none is missed, whichever commits first.';

-- note_change: after guard_trader_state, which may change the owner.
create function vyx.note_change() returns trigger language plpgsql set search_path = '' as $$
begin
  new.changed_in := pg_current_xact_id();
  return new;
end $$;
create trigger note_change before update on public.trader_state for each row
  when (new.state is distinct from old.state or new.owner is distinct from old.owner) execute function vyx.note_change();

-- note_revision: what is screened is another column's business, but the same machine's.
create function vyx.note_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  update public.trader_state s set changed_in = pg_current_xact_id() where s.trader_id = new.id;
  return null;
end $$;
create trigger note_revision after update on public.traders for each row
  when (new.revision is distinct from old.revision) execute function vyx.note_revision();

-- The tables of changed rows have no statistics: a nested loop over them took 50 s for 30,000 rows, on every update of so many.
alter function vyx.record_trader_events set enable_nestloop = off;

-- reap_v1: bury dead machines, free their traders and end their sessions. Skips a machine with an open fenced transaction. At most
-- 20,000 traders at a time (0.5 s), so that a beat of the machine that reaps is never late for it; the next call goes on.
create or replace function vyx.reap_v1(ttl interval, grace interval, now timestamptz default null) returns table (dead bigint, dead_machine text, freed bigint)
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
