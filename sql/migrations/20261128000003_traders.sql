-- Traders and their lifecycle. The transition table is data; a trigger holds it for everybody, Studio included.
create type public.trader_lifecycle as enum ('stopped', 'starting', 'running', 'stopping', 'error');

create table public.traders (
  id          uuid primary key default gen_random_uuid(),
  user_id     uuid not null references auth.users (id) on delete cascade,
  name        text not null,
  description text not null default '',
  filter      text not null,
  symbols     text[],
  frequency   jsonb not null default '"every_bar"',
  plan        jsonb not null,
  plan_hash   text not null,
  plan_summary jsonb not null default '{}',
  revision    bigint not null default 1,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  constraint name_has_1_to_120_characters check (length(name) between 1 and 120),
  constraint description_has_at_most_2000_characters check (length(description) <= 2000),
  constraint filter_has_at_most_64_kib check (octet_length(filter) <= 65536),
  constraint symbols_are_not_empty check (cardinality(symbols) > 0),
  constraint frequency_is_known check (
    frequency in ('"every_bar"'::jsonb, '"on_enter"'::jsonb)
    or (jsonb_typeof(frequency -> 'cooldown_s') = 'number' and (frequency ->> 'cooldown_s')::numeric > 0))
);
create index traders_user_id_created_at_idx on public.traders (user_id, created_at desc, id);
comment on table public.traders is 'What each user wants screened. One row per trader; its run state is in trader_state.';
comment on column public.traders.filter is 'The user''s source text. It runs only inside the interpreter sandbox, once, when it is saved.';
comment on column public.traders.symbols is 'Null: every pair of the market.';
comment on column public.traders.plan is 'The compiled filter. Validated again by every machine that loads it.';
comment on column public.traders.plan_summary is 'What follows from the plan, for people: trigger, timeframes, forming, due_every, operators, lookback_bars, cost, calls_each. Nothing computes from it.';
comment on column public.traders.revision is 'Rises with every change of filter, symbols or frequency; a running machine loads the new one before its next slot.';

create table vyx.transitions (
  from_state public.trader_lifecycle not null,
  to_state   public.trader_lifecycle not null,
  caused_by  text not null,
  primary key (from_state, to_state)
);
comment on table vyx.transitions is 'The lifecycle as a table; app/domain/lifecycle.py holds the same one and a test keeps them equal.';
insert into vyx.transitions values
  ('stopped',  'starting', 'user start'),
  ('starting', 'running',  'a machine claimed it and loaded its plan'),
  ('starting', 'error',    'cannot load or evaluate'),
  ('running',  'error',    'cannot load or evaluate'),
  ('starting', 'stopping', 'user stop'),
  ('running',  'stopping', 'user stop'),
  ('stopping', 'stopped',  'owner finished the slot in hand, or there is none'),
  ('error',    'starting', 'retry_at reached, or user start'),
  ('error',    'stopped',  'user stop');

create type vyx.machine_state as enum ('alive', 'draining', 'dead');
create table vyx.machines (
  boot_id          bigint generated always as identity primary key,
  machine_id       text not null,
  state            vyx.machine_state not null default 'alive',
  screened_through timestamptz,
  started_at       timestamptz not null default clock_timestamp(),
  ended_at         timestamptz,
  constraint dead_machine_has_an_end check ((state = 'dead') = (ended_at is not null))
);
create index machines_not_dead_idx on vyx.machines (boot_id) where state <> 'dead';
comment on table vyx.machines is 'One row per boot of a worker process. boot_id is the fencing token: every write of a machine locks this row first, and a dead row refuses.';
comment on column vyx.machines.screened_through is 'The last slot this machine has accounted for, for all traders that are in step with it.';

create table vyx.machine_heartbeats (
  boot_id       bigint primary key references vyx.machines (boot_id) on delete cascade,
  heartbeat_at  timestamptz not null default clock_timestamp(),
  beating_since timestamptz not null default clock_timestamp(),
  owned         int not null default 0,
  progress      jsonb not null default '{}',
  constraint owned_is_not_negative check (owned >= 0),
  constraint progress_is_an_object check (jsonb_typeof(progress) = 'object')
) with (fillfactor = 50);
comment on table vyx.machine_heartbeats is 'Apart from machines, so that a beat never waits for a fenced transaction. Rewritten once a second per machine.';
comment on column vyx.machine_heartbeats.beating_since is 'Beginning of its unbroken series of beats. A machine judges others only by the time in which it could beat itself.';
comment on column vyx.machine_heartbeats.owned is 'How many traders the machine has loaded, as it reports.';
comment on column vyx.machine_heartbeats.progress is 'By task (screen, ingest, jobs, ...): count of its steps, idle_s since the last one, bound_s in which the next is due (null: nothing to do).';

create table public.trader_state (
  trader_id      uuid primary key references public.traders (id) on delete cascade,
  user_id        uuid not null references auth.users (id) on delete cascade,
  state          public.trader_lifecycle not null default 'stopped',
  version        bigint not null default 0,
  reason         text,
  last_error     text,
  error_count    int not null default 0,
  retry_at       timestamptz,
  owner          bigint references vyx.machines (boot_id),
  epoch          bigint not null default 0,
  lease_after    timestamptz,
  resume_after   timestamptz,
  in_step        boolean not null default false,
  signal_count   bigint not null default 0,
  last_signal_at timestamptz,
  signal_day     date,
  signals_that_day int not null default 0,
  flooding_since timestamptz,
  started_at     timestamptz,
  stopped_at     timestamptz,
  changed_at     timestamptz not null default now(),
  changed_in     xid8 not null default pg_current_xact_id(),
  constraint only_an_active_trader_has_an_owner check (owner is null or state in ('starting', 'running', 'stopping')),
  constraint only_an_error_is_retried check (retry_at is null or state = 'error'),
  constraint only_an_owned_trader_is_in_step check (owner is not null or not in_step)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
create index trader_state_stopping_idx on public.trader_state (owner) where state = 'stopping';
create index trader_state_claimable_idx on public.trader_state (trader_id) where owner is null and state in ('starting', 'running');
create index trader_state_owner_idx on public.trader_state (owner) where owner is not null;
create index trader_state_user_id_idx on public.trader_state (user_id);
create index trader_state_retry_at_idx on public.trader_state (retry_at) where retry_at is not null;
create index trader_state_changed_in_idx on public.trader_state (changed_in);
comment on table public.trader_state is 'The run state and the lease of each trader. Only the transitions in vyx.transitions are accepted, from anybody.';
comment on column public.trader_state.version is 'Optimistic lock: every change of state adds one.';
comment on column public.trader_state.owner is 'Boot of the machine that screens it; null, or a machine that is dead: nobody does, the next machine with room claims it.';
comment on column public.trader_state.epoch is 'Rises whenever the owner changes; a late writer of an old epoch is refused.';
comment on column public.trader_state.lease_after is 'The current lease covers the slots after this one.';
comment on column public.trader_state.resume_after is 'The last slot accounted for when the owner took it; the next owner goes on after it. While in_step, machines.screened_through of the owner is the truth.';
comment on column public.trader_state.signal_day is 'The UTC day of market time that signals_that_day counts; its slots lie after midnight and through the next.';
comment on column public.trader_state.flooding_since is 'First slot, on its day, of which a row of signal_digests was stored instead of signals.';
comment on column public.trader_state.changed_in is 'The transaction that last changed state, owner or what is screened. A machine reads the rows of transactions that were not over when it looked last: none is missed, whichever commits first.';

create table vyx.trader_counts (
  owner   bigint,
  traders bigint not null
);
comment on table vyx.trader_counts is 'Changes in the number of starting and running traders by owner; their sums are the numbers themselves. Rows are only added, so no writer waits for another; vyx.fold_trader_counts_v1 adds them up, vyx.check_trader_counts_v1 compares them with the traders.';
comment on column vyx.trader_counts.owner is 'Boot of the machine that holds them; null: nobody.';

-- keep_trader_counts: one row per statement and owner whose number it changed.
create function vyx.keep_trader_counts() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'UPDATE' then
    insert into vyx.trader_counts (owner, traders)
    select d.owner, sum(d.n) from (
      select n.owner, 1 as n from changed n where n.state in ('starting', 'running')
      union all
      select o.owner, -1 from was o where o.state in ('starting', 'running')) d
     group by d.owner having sum(d.n) <> 0;
  else
    insert into vyx.trader_counts (owner, traders)
    select o.owner, -count(*) from was o where o.state in ('starting', 'running') group by o.owner;
  end if;
  return null;
end $$;
create trigger keep_trader_counts after update on public.trader_state
  referencing old table as was new table as changed for each statement execute function vyx.keep_trader_counts();
create trigger keep_trader_counts_of_deleted after delete on public.trader_state
  referencing old table as was for each statement execute function vyx.keep_trader_counts();

-- fold_trader_counts_v1: one row per owner instead of one per change, once there are so many. One caller at a time; a second one
-- returns at once.
create function vyx.fold_trader_counts_v1(at_least int default 0) returns boolean language plpgsql set search_path = '' as $$
begin
  if (select count(*) from (select from vyx.trader_counts limit at_least) c) < at_least then return false; end if;
  if not pg_try_advisory_xact_lock(7007, 1) then return false; end if;
  with folded as (delete from vyx.trader_counts returning owner, traders)
  insert into vyx.trader_counts (owner, traders)
  select f.owner, sum(f.traders) from folded f group by f.owner having sum(f.traders) <> 0;
  return true;
end $$;

create table vyx.leases (
  trader_id  uuid not null references public.traders (id) on delete cascade,
  epoch      bigint not null,
  boot_id    bigint not null,
  machine_id text not null,
  after      timestamptz not null,
  through    timestamptz not null,
  ended_at   timestamptz not null default clock_timestamp(),
  primary key (trader_id, epoch),
  constraint lease_screened_something check (through > after)
);
comment on table vyx.leases is 'Ended leases: the machine accounted for every slot in (after, through]. Their union with the live leases is a trader''s coverage; a hole is a gap.';

-- guard_trader_state: every change of a row, whoever makes it, obeys the transition table and keeps lease and history together.
create function vyx.guard_trader_state() returns trigger language plpgsql set search_path = '' as $$
declare
  accounted_through timestamptz;
  owner_machine text;
begin
  if new.state is distinct from old.state then
    if not exists (select from vyx.transitions t where t.from_state = old.state and t.to_state = new.state) then
      raise exception 'a % trader cannot become %', old.state, new.state using errcode = 'VX409', detail = old.state;
    end if;
    new.version := old.version + 1;
    new.changed_at := clock_timestamp();
    new.retry_at := null;
    case new.state
      when 'starting' then
        if old.state = 'stopped' or new.reason = 'start' then   -- in error: a person looked at it
          new.resume_after := coalesce(vyx.newest_slot(), old.resume_after, 'epoch');   -- screened from the next slot on
          new.error_count := 0;
        end if;
        if old.state = 'stopped' then new.last_error := null; end if;
        new.stopped_at := null;
      when 'running' then new.started_at := new.changed_at;
      when 'stopped' then new.stopped_at := new.changed_at; new.owner := null; new.last_error := null; new.error_count := 0;
      when 'error' then
        -- "in a row": a trader that ran for 15 minutes has recovered in between
        new.error_count := case when old.state = 'running' and old.started_at < new.changed_at - interval '15 min' then 1 else old.error_count + 1 end;
        new.retry_at := case when new.error_count <= 5 then new.changed_at + least(interval '60 s' * power(2, new.error_count - 1), interval '15 min') end;
        new.owner := null;
      else null;
    end case;
  elsif new.version is distinct from old.version then
    raise exception 'the version of a trader changes only with its state' using errcode = 'VX409', detail = old.state;
  end if;
  if new.owner is distinct from old.owner then
    new.epoch := old.epoch + 1;
    if old.owner is not null then
      select case when old.in_step then m.screened_through else old.resume_after end, m.machine_id
        into accounted_through, owner_machine from vyx.machines m where m.boot_id = old.owner;
      new.resume_after := greatest(accounted_through, old.resume_after);
      if new.resume_after > old.lease_after then
        insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through)
        values (old.trader_id, old.epoch, old.owner, owner_machine, old.lease_after, new.resume_after);
      end if;
    end if;
    new.in_step := false;
    new.lease_after := case when new.owner is not null then new.resume_after end;
    new.changed_in := pg_current_xact_id();
  elsif new.state is distinct from old.state then
    new.changed_in := pg_current_xact_id();
  end if;
  return new;
end $$;
create trigger guard_trader_state before update on public.trader_state for each row
  when (new.state is distinct from old.state or new.owner is distinct from old.owner or new.version is distinct from old.version)
  execute function vyx.guard_trader_state();

-- A trader is born stopped, whoever inserts it.
create function vyx.guard_new_trader_state() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.state <> 'stopped' or new.owner is not null then
    raise exception 'a trader is created stopped; start it with start_trader(id)' using errcode = 'VX409', detail = 'stopped';
  end if;
  return new;
end $$;
create trigger guard_new_trader_state before insert on public.trader_state for each row execute function vyx.guard_new_trader_state();

-- keep_trader_state: each trader has a state row; a change of what it screens raises its revision.
create function vyx.keep_trader_state() returns trigger language plpgsql set search_path = '' as $$
begin
  insert into public.trader_state (trader_id, user_id) values (new.id, new.user_id);
  return null;
end $$;
create trigger keep_trader_state after insert on public.traders for each row execute function vyx.keep_trader_state();

create function vyx.raise_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  new.updated_at := clock_timestamp();
  if new.user_id is distinct from old.user_id then
    raise exception 'a trader does not change hands' using errcode = 'VX422';
  end if;
  if (new.plan, new.plan_hash, new.filter, new.symbols, new.frequency) is distinct from (old.plan, old.plan_hash, old.filter, old.symbols, old.frequency) then
    new.revision := old.revision + 1;
  end if;
  return new;
end $$;
create trigger raise_revision before update on public.traders for each row execute function vyx.raise_revision();

-- note_revision: what is screened is another column's business, but the same machine's.
create function vyx.note_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  update public.trader_state s set changed_in = pg_current_xact_id() where s.trader_id = new.id;
  return null;
end $$;
create trigger note_revision after update on public.traders for each row
  when (new.revision is distinct from old.revision) execute function vyx.note_revision();

-- trader_versions: what a trader screened, version after version, for audits and for going back.
create table public.trader_versions (
  trader_id      uuid not null references public.traders (id) on delete cascade,
  number         bigint not null,
  user_id        uuid not null references auth.users (id) on delete cascade,
  filter         text not null,
  symbols        text[],
  frequency      jsonb not null,
  plan           jsonb not null,
  plan_hash      text not null,
  saved_at       timestamptz not null default clock_timestamp(),
  screened_after timestamptz,
  constraint one_row_per_version primary key (trader_id, number)
);
create index trader_versions_user_id_idx on public.trader_versions (user_id);
comment on table public.trader_versions is 'Every saved version of filter, symbols and frequency; number is the trader''s revision. Written by a trigger on traders.';
comment on column public.trader_versions.screened_after is 'The version screens the slots after this one, until a later version does; null: no machine has loaded it.';

-- keep_trader_version: whoever changes a trader, Studio included.
create function vyx.keep_trader_version() returns trigger language plpgsql set search_path = '' as $$
begin
  insert into public.trader_versions (trader_id, number, user_id, filter, symbols, frequency, plan, plan_hash)
  values (new.id, new.revision, new.user_id, new.filter, new.symbols, new.frequency, new.plan, new.plan_hash);
  return null;
end $$;
create trigger keep_first_version after insert on public.traders for each row execute function vyx.keep_trader_version();
create trigger keep_next_version after update on public.traders for each row
  when (new.revision is distinct from old.revision) execute function vyx.keep_trader_version();

-- guard_screened_through: a machine accounts for one closed slot after the other; going back is harmless, a leap forward is not.
create function vyx.guard_screened_through() returns trigger language plpgsql set search_path = '' as $$
begin
  if exists (select from vyx.slots s where s.slot > old.screened_through and s.slot < new.screened_through)
     or not exists (select from vyx.slots s where s.slot = new.screened_through and s.state <> 'open') then
    raise exception 'a machine goes on by one closed slot at a time, not from % to %', old.screened_through, new.screened_through
      using errcode = 'VX422';
  end if;
  return new;
end $$;
create trigger guard_screened_through before update on vyx.machines for each row
  when (new.screened_through > old.screened_through) execute function vyx.guard_screened_through();

alter table public.traders      enable row level security;
alter table public.trader_state enable row level security;
alter table public.trader_versions enable row level security;
alter table vyx.transitions enable row level security;
alter table vyx.machines enable row level security;
alter table vyx.machine_heartbeats enable row level security;
alter table vyx.leases enable row level security;
alter table vyx.trader_counts enable row level security;
create policy traders_owner_select      on public.traders      for select to authenticated using ((select auth.uid()) = user_id);
create policy trader_state_owner_select on public.trader_state for select to authenticated using ((select auth.uid()) = user_id);
create policy trader_versions_owner_select on public.trader_versions for select to authenticated using ((select auth.uid()) = user_id);
revoke all on public.traders, public.trader_state, public.trader_versions from anon, authenticated;
grant select on public.traders, public.trader_state, public.trader_versions to authenticated;
grant all on public.traders, public.trader_state, public.trader_versions to service_role;
grant all on vyx.transitions, vyx.machines, vyx.machine_heartbeats, vyx.leases, vyx.trader_counts to service_role;
