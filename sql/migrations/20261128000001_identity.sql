-- Who may run how much. Tables a person reads in Supabase Studio live in `public`; machinery lives in `vyx`, which no API exposes.
create schema vyx;
comment on schema vyx is 'Machinery of the screener: machines, leases, market data. Not exposed by any API; people read the views in public.';
revoke all on schema vyx from public;

create table public.tiers (
  tier        text primary key,
  max_running int,
  constraint max_running_is_not_negative check (max_running >= 0)
);
comment on table public.tiers is 'What a user may run at the same time. A row per tier; edit a number here and it holds from the next start on.';
comment on column public.tiers.max_running is 'Traders that may run at once; null is unlimited.';
insert into public.tiers (tier, max_running) values ('free', 0), ('pro', 10), ('elite', null);

create table public.accounts (
  user_id    uuid primary key references auth.users (id) on delete cascade,
  tier       text not null default 'free' references public.tiers (tier),
  created_at timestamptz not null default now()
);
create index accounts_tier_idx on public.accounts (tier);
comment on table public.accounts is 'The tier of each user. A user without a row is on the free tier.';

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
