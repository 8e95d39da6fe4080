-- What keeps stored things from growing without end: a digest per slot of a trader that floods, and how far each kind was pruned.

-- market_day: the UTC day of a slot. A day has the slots after its midnight and through the next, as bars are (open, close]: no bar of
-- at most a day lies in two of them.
create function vyx.market_day(slot timestamptz) returns date language sql immutable set search_path = '' as $$
  select ((slot - interval '1 microsecond') at time zone 'UTC')::date
$$;

-- signals_per_day: what the tier of a user lets each of their traders store in a day; null is unlimited.
create function vyx.signals_per_day("user" uuid) returns int language sql stable set search_path = '' as $$
  select t.signals_per_day from public.tiers t where t.tier = coalesce((select a.tier from public.accounts a where a.user_id = "user"), 'free')
$$;

create table public.signal_digests (
  trader_id  uuid not null references public.traders (id) on delete cascade,
  slot       timestamptz not null,
  user_id    uuid not null references auth.users (id) on delete cascade,
  matches    int not null,
  symbols    text[] not null,
  plan_hash  text not null,
  epoch      bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  constraint one_digest_per_trader_and_slot primary key (trader_id, slot),
  constraint a_digest_names_its_first_pairs check (matches > 0 and cardinality(symbols) between 1 and least(matches, 20))
);
create index signal_digests_user_id_idx on public.signal_digests (user_id, slot);
create index signal_digests_slot_idx on public.signal_digests using brin (slot);
comment on table public.signal_digests is 'One row per slot of a trader that has stored its tier''s signals of the day (tiers.signals_per_day): it was screened, and this is stored instead of signals.';
comment on column public.signal_digests.matches is 'Pairs that matched at the slot, before a cooldown.';
comment on column public.signal_digests.symbols is 'The first of them by name, at most 20.';
alter table public.signal_digests enable row level security;
create policy signal_digests_owner_select on public.signal_digests for select to authenticated using ((select auth.uid()) = user_id);
revoke all on public.signal_digests from anon, authenticated;
grant select on public.signal_digests to authenticated;
grant all on public.signal_digests to service_role;

create table vyx.prunings (
  kind          text primary key,
  pruned_before timestamptz not null,
  row_count     bigint not null default 0,
  pruned_at     timestamptz not null default clock_timestamp()
);
comment on table vyx.prunings is 'Of each kind of row: from when on everything is kept, and how many older rows were deleted so far. VYX_KEEP_DAYS says how many days are kept.';
comment on column vyx.prunings.pruned_before is 'Market time for signals, signal_digests, signal_revisions and slots, else the wall clock. Stated before the first row goes; never moves back.';
comment on column vyx.prunings.row_count is 'Rows deleted since the database was made; of dropped partitions what Postgres estimates they held.';
alter table vyx.prunings enable row level security;
grant all on vyx.prunings to service_role;

-- raise_feed_floor: feed rows through this id may be gone; a stream that resumes before it is told to reset.
create function vyx.raise_feed_floor(through bigint) returns void language sql set search_path = '' as $$
  update vyx.feed_floors f set id = through where f.id < through
$$;

-- drop_signal_partition_v1: the oldest month of signals goes whole when all of it lies before an instant; returns about how many rows it
-- had, null when there is no such month. The parent is locked for an instant: whoever reads or writes signals waits at most 200 ms, and
-- when the lock is not to be had by then nothing happens until the next time.
create function vyx.drop_signal_partition_v1(before timestamptz) returns bigint language plpgsql set search_path = '' as $$
declare
  oldest record;
  row_count bigint;
  newest_id bigint;
begin
  select c.relname as name, c.reltuples as about into oldest
    from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
   where i.inhparent = 'public.signals'::regclass and c.relname ~ '^signals_\d{4}_\d\d$'
     and (to_date(right(c.relname, 7), 'YYYY_MM')::timestamp + interval '1 month') at time zone 'UTC' <= before
   order by c.relname limit 1;
  if not found then return null; end if;
  if oldest.about < 1000 then   -- never analysed, or so few that they are counted
    execute format('select count(*) from vyx.%I', oldest.name) into row_count;
  else
    row_count := oldest.about::bigint;
  end if;
  execute format('select max(s.id) from vyx.%I s', oldest.name) into newest_id;
  perform set_config('lock_timeout', '200ms', true);
  begin
    execute format('drop table vyx.%I', oldest.name);
  exception when lock_not_available then
    return null;
  end;
  perform vyx.raise_feed_floor(newest_id);
  return row_count;
end $$;

revoke all on function vyx.raise_feed_floor, vyx.drop_signal_partition_v1 from public;
grant execute on function vyx.market_day, vyx.signals_per_day, vyx.raise_feed_floor, vyx.drop_signal_partition_v1 to service_role;
