-- Who may run how much. Tables a person reads in Supabase Studio live in `public`; machinery lives in `vyx`, which no API exposes.
create schema vyx;
comment on schema vyx is 'Machinery of the screener: machines, leases, market data. Not exposed by any API; people read the views in public.';
revoke all on schema vyx from public;

create table public.tiers (
  tier        text primary key,
  max_running int,
  max_stored  int,
  max_streams int not null default 10,
  signals_per_day int,
  constraint max_running_is_not_negative check (max_running >= 0),
  constraint max_stored_is_not_negative check (max_stored >= 0),
  constraint max_streams_is_not_negative check (max_streams >= 0),
  constraint signals_per_day_is_positive check (signals_per_day > 0)
);
comment on table public.tiers is 'What a user may have and run at the same time. A row per tier; edit a number here and it holds from the next request on.';
comment on column public.tiers.max_running is 'Traders that may run at once; null is unlimited. Lowering it stops the newest traders beyond it.';
comment on column public.tiers.max_stored is 'Traders that may be saved; null is unlimited. Up to 64 KiB of filter each.';
comment on column public.tiers.max_streams is 'Event streams that may be open at once, on each web process.';
comment on column public.tiers.signals_per_day is 'Signals that one trader may store in a UTC day; null is unlimited. Beyond it each slot stores one row of signal_digests instead.';
insert into public.tiers (tier, max_running, max_stored, max_streams, signals_per_day)
values ('free', 0, 100, 10, 5000), ('pro', 10, 1000, 10, 200000), ('elite', null, 10000, 50, 500000);

-- next_tier: the lowest tier that would leave room beside so many; null when there is none. Quotas are named as the API names them.
create function vyx.next_tier(quota text, used bigint) returns text language sql stable set search_path = '' as $$
  select t.tier
    from public.tiers t cross join lateral (select case quota when 'running_traders' then t.max_running else t.max_stored end) l (most)
   where l.most is null or l.most > used
   order by l.most nulls last, t.tier limit 1
$$;

create table public.accounts (
  user_id    uuid primary key references auth.users (id) on delete cascade,
  tier       text not null default 'free' references public.tiers (tier),
  is_over    boolean not null default false,
  created_at timestamptz not null default now()
);
create index accounts_tier_idx on public.accounts (tier);
create index accounts_is_over_idx on public.accounts (user_id) where is_over;
comment on table public.accounts is 'The tier of each user. A user without a row is on the free tier.';
comment on column public.accounts.is_over is 'The tier may allow less than runs: the next beat of any machine looks and stops the newest traders beyond it.';

-- announce_user: web processes remember users and hold their streams open; they listen, and forget one that is gone.
create function vyx.announce_user() returns trigger language plpgsql set search_path = '' as $$
begin
  perform pg_notify('vyx_user', old.user_id::text);
  return null;
end $$;
create trigger announce_user after delete on public.accounts for each row execute function vyx.announce_user();

-- mark_over: a tier given or lowered, by whomever, is looked at once.
create function vyx.mark_over() returns trigger language plpgsql set search_path = '' as $$
begin
  new.is_over := true;
  return new;
end $$;
create trigger mark_over before update on public.accounts for each row when (new.tier is distinct from old.tier) execute function vyx.mark_over();
create function vyx.mark_all_over() returns trigger language plpgsql set search_path = '' as $$
begin
  update public.accounts a set is_over = true where a.tier = new.tier;
  return null;
end $$;
create trigger mark_all_over after update on public.tiers for each row
  when (new.max_running is not null and new.max_running is distinct from old.max_running) execute function vyx.mark_all_over();

-- set_tier: the one way to change a tier, for people in Studio and for the command line.
create function public.set_tier("user" uuid, tier text) returns public.accounts
language plpgsql set search_path = '' as $$
declare account public.accounts;
begin
  if not exists (select from public.tiers t where t.tier = set_tier.tier) then
    raise exception 'there is no tier %; known are %', set_tier.tier, (select string_agg(t.tier, ', ' order by t.max_running nulls last) from public.tiers t)
      using errcode = 'VX422';
  end if;
  insert into public.accounts (user_id, tier) values ("user", set_tier.tier)
  on conflict (user_id) do update set tier = excluded.tier
  returning * into account;
  return account;
end $$;

-- stop_beyond_tiers_v1: after a downgrade, the newest traders beyond the tier stop, each with an event that says why. Part of a beat.
-- Rows that somebody else holds are left for the next beat: a start locks its trader first and the account second.
create function vyx.stop_beyond_tiers_v1() returns bigint language plpgsql set search_path = '' as $$
declare
  account record;
  beyond record;
  excess bigint;
  stopped bigint := 0;
begin
  for account in
    select a.user_id, a.tier, t.max_running from public.accounts a join public.tiers t using (tier)
     where a.is_over order by a.user_id limit 100 for update of a skip locked
  loop
    excess := vyx.active_traders(account.user_id) - account.max_running;
    for beyond in
      select s.trader_id from public.trader_state s
       where s.user_id = account.user_id and (s.state in ('starting', 'running') or s.retry_at is not null)
       order by coalesce(s.started_at, s.changed_at) desc, s.trader_id limit greatest(excess, 0) for update skip locked
    loop
      perform vyx.stop_trader_v1(beyond.trader_id, format('the %s tier runs at most %s traders', account.tier, account.max_running));
      excess := excess - 1;
      stopped := stopped + 1;
    end loop;
    if coalesce(excess, 0) <= 0 then
      update public.accounts a set is_over = false where a.user_id = account.user_id;
    end if;
  end loop;
  return stopped;
end $$;
comment on function public.set_tier is 'Give a user a tier: select set_tier(''…uuid…'', ''pro'').';

alter table public.tiers    enable row level security;
alter table public.accounts enable row level security;
create policy tiers_are_public       on public.tiers    for select to authenticated using (true);
create policy accounts_owner_select  on public.accounts for select to authenticated using ((select auth.uid()) = user_id);
revoke all on public.tiers, public.accounts from anon, authenticated;
grant select on public.tiers, public.accounts to authenticated;
grant all on public.tiers, public.accounts to service_role;
revoke all on function public.set_tier from public, anon, authenticated;
grant execute on function public.set_tier to service_role;
grant usage on schema vyx to service_role;
