-- The feed: signals and trader events draw their ids from one sequence, so that one cursor follows both without a gap.
-- Writers hold a shared advisory lock from before the first id until after their commit is visible; the reader (app/http/feed.py)
-- publishes only up to an id below which no lock holder can still commit. The sequence keeps CACHE 1 and nobody calls it by hand.
create sequence vyx.feed_id as bigint cache 1;

-- lock_feed: taken by statement triggers, before any row of the statement draws its id. Key (7002, 1), listed in tests/store/test_locks.py.
create function vyx.lock_feed() returns trigger language plpgsql set search_path = '' as $$
begin
  perform pg_advisory_xact_lock_shared(7002, 1);
  return null;
end $$;

create table public.trader_events (
  id         bigint primary key default nextval('vyx.feed_id'),
  trader_id  uuid not null references public.traders (id) on delete cascade,
  user_id    uuid not null references auth.users (id) on delete cascade,
  from_state public.trader_lifecycle not null,
  to_state   public.trader_lifecycle not null,
  reason     text,
  version    bigint not null,
  at         timestamptz not null default clock_timestamp()
);
create index trader_events_user_id_idx on public.trader_events (user_id, id);
create index trader_events_trader_id_idx on public.trader_events (trader_id, id);
comment on table public.trader_events is 'Every change of state of every trader, in feed order.';
create trigger lock_feed before insert on public.trader_events for each statement execute function vyx.lock_feed();

create table public.signals (
  id           bigint not null default nextval('vyx.feed_id'),
  trader_id    uuid not null references public.traders (id) on delete cascade,
  user_id      uuid not null references auth.users (id) on delete cascade,
  symbol       text not null,
  timeframe    vyx.timeframe not null,
  triggered_at timestamptz not null,
  price        double precision not null,
  shown        jsonb not null default '{}',
  plan_hash    text not null,
  epoch        bigint not null,
  late         boolean not null default false,
  forming      boolean not null default false,
  screened_at  timestamptz not null,
  created_at   timestamptz not null default clock_timestamp(),
  constraint one_signal_per_trader_symbol_and_bar primary key (trader_id, symbol, triggered_at)
) partition by range (triggered_at);
create index signals_id_idx on public.signals (id);
create index signals_user_id_idx on public.signals (user_id, id);
create index signals_user_id_created_at_idx on public.signals (user_id, created_at, id);
create index signals_trader_id_created_at_idx on public.signals (trader_id, created_at);
-- rows lie in the order of time: a few pages per slot, for audits; a second btree would cost every insert
create index signals_triggered_at_idx on public.signals using brin (triggered_at) with (pages_per_range = 16, autosummarize = on);
comment on table public.signals is 'Exactly one row per (trader, symbol, bar); for closed bars the primary key sees to it, for bars in progress the trigger keep_first_of_bar.';
comment on column public.signals.triggered_at is 'The slot at which it matched, close of the bar that matched or (forming) of a minute in it: market time, never a wall clock.';
comment on column public.signals.forming is 'The filter reads bars in progress: what matched at triggered_at may not hold any more when the bar closes.';
comment on column public.signals.shown is 'The values the filter asked to show, at that bar.';
create trigger lock_feed before insert on public.signals for each statement execute function vyx.lock_feed();

-- keep_first_of_bar: a match on a bar that has its signal already is passed over, as a second one at the same slot is. A bar is
-- (open, close] in slots; names of timeframes read as intervals. No unique index: it would have to hold the partition key. Two
-- writers cannot race past each other: a trader's signals are written under its one lease.
create function vyx.keep_first_of_bar() returns trigger language plpgsql set search_path = '' as $$
declare
  opened timestamptz := date_bin(new.timeframe::text::interval, new.triggered_at - interval '1 microsecond', 'epoch');
begin
  if exists (select from public.signals s
              where s.trader_id = new.trader_id and s.symbol = new.symbol and s.timeframe = new.timeframe
                and s.triggered_at > opened and s.triggered_at < new.triggered_at) then
    return null;
  end if;
  return new;
end $$;
create trigger keep_first_of_bar before insert on public.signals for each row when (new.forming) execute function vyx.keep_first_of_bar();

-- keep_signal_partition: a partition per month of market time, made before a slot of that month is first screened.
create function vyx.keep_signal_partition(at timestamptz) returns boolean language plpgsql set search_path = '' as $$
declare
  month timestamptz := date_trunc('month', at, 'UTC');
  name text := 'signals_' || to_char(at at time zone 'UTC', 'YYYY_MM');
begin
  if to_regclass('vyx.' || quote_ident(name)) is not null then return false; end if;
  perform pg_advisory_xact_lock(7003, 1);
  -- read the table, not to_regclass: waiting for an advisory lock does not refresh the caches that to_regclass looks into
  if exists (select from pg_catalog.pg_class c where c.relnamespace = 'vyx'::regnamespace and c.relname = name) then return false; end if;
  execute format('create table vyx.%I partition of public.signals for values from (%L) to (%L)', name, month, month + interval '1 month');
  -- a direct insert into a partition would pass the parent's trigger by
  execute format('create trigger lock_feed before insert on vyx.%I for each statement execute function vyx.lock_feed()', name);
  execute format('alter table vyx.%I enable row level security', name);
  execute format('revoke all on vyx.%I from public, anon, authenticated', name);
  return true;
end $$;

-- record_trader_events: one statement writes the events of all rows that changed their state.
-- No nested loop: the tables of changed rows have no statistics (50 s for 30,000 rows, now 0.4).
create function vyx.record_trader_events() returns trigger language plpgsql set search_path = '' set enable_nestloop = off as $$
begin
  if exists (select from changed n join was o using (trader_id) where n.state is distinct from o.state) then
    insert into public.trader_events (trader_id, user_id, from_state, to_state, reason, version)
    select n.trader_id, n.user_id, o.state, n.state, n.reason, n.version
      from changed n join was o using (trader_id) where n.state is distinct from o.state order by n.trader_id;
  end if;
  return null;
end $$;
create trigger record_trader_events after update on public.trader_state
  referencing old table as was new table as changed for each statement execute function vyx.record_trader_events();

-- feed_floor: ids at or below it have been pruned; a cursor from there is told to reset.
create table vyx.feed_floors (
  only_one boolean primary key default true check (only_one),
  id       bigint not null default 0
);
insert into vyx.feed_floors default values;
comment on table vyx.feed_floors is 'Up to this id the feed has been pruned.';

-- signals_failed: signals that the database refused, one row each; `vyx redeliver` inserts them once what refused them is mended.
create table public.signals_failed (
  failed_id    bigint primary key default nextval('vyx.feed_id'),
  trader_id    uuid not null references public.traders (id) on delete cascade,
  user_id      uuid not null references auth.users (id) on delete cascade,
  symbol       text not null,
  timeframe    text not null,
  triggered_at timestamptz not null,
  price        double precision not null,
  shown        text not null,
  plan_hash    text not null,
  epoch        bigint not null,
  forming      boolean not null,
  cooldown_s   double precision,
  reason       text not null,
  failed_at    timestamptz not null default clock_timestamp(),
  constraint one_failure_per_trader_symbol_and_bar unique (trader_id, symbol, triggered_at)
);
create index signals_failed_user_id_idx on public.signals_failed (user_id);
comment on table public.signals_failed is 'Signals that a constraint or a type refused, set aside so that the rest of their slot is kept. `vyx redeliver` tries them again.';
comment on column public.signals_failed.failed_id is 'Drawn with the ids of signals, so that one number names one thing for `vyx redeliver --signal`.';
comment on column public.signals_failed.shown is 'JSON text as it was offered; not jsonb, since that may be what was refused.';
comment on column public.signals_failed.reason is 'What the database said.';

alter table public.trader_events enable row level security;
alter table public.signals       enable row level security;
alter table public.signals_failed enable row level security;
alter table vyx.feed_floors      enable row level security;
create policy trader_events_owner_select on public.trader_events for select to authenticated using ((select auth.uid()) = user_id);
create policy signals_owner_select       on public.signals       for select to authenticated using ((select auth.uid()) = user_id);
create policy signals_failed_owner_select on public.signals_failed for select to authenticated using ((select auth.uid()) = user_id);
revoke all on public.trader_events, public.signals, public.signals_failed from anon, authenticated;
grant select on public.trader_events, public.signals, public.signals_failed to authenticated;
grant all on public.trader_events, public.signals, public.signals_failed to service_role;
grant all on vyx.feed_floors to service_role;
grant usage on sequence vyx.feed_id to service_role;
