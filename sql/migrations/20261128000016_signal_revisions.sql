-- What corrected candles would have changed: reported, never acted on.
create table public.signal_revisions (
  revision_id  bigint generated always as identity primary key,
  trader_id    uuid not null references public.traders (id) on delete cascade,
  user_id      uuid not null references auth.users (id) on delete cascade,
  symbol       text not null,
  triggered_at timestamptz not null,
  kind         text not null,
  found_at     timestamptz not null default clock_timestamp(),
  constraint one_revision_per_signal_and_kind unique (trader_id, symbol, triggered_at, kind),
  constraint kind_is_known check (kind in ('missing', 'new'))
);
create index signal_revisions_user_id_idx on public.signal_revisions (user_id);
comment on table public.signal_revisions is 'Signals that would be missing or new had the candles of their slot been what they are now. The signals themselves stay as they are.';
comment on column public.signal_revisions.kind is 'missing: the signal is stored, and would not be sent now. new: it would be sent now, and never was.';
alter table public.signal_revisions enable row level security;
create policy signal_revisions_owner_select on public.signal_revisions for select to authenticated using ((select auth.uid()) = user_id);
revoke all on public.signal_revisions from anon, authenticated;
grant select on public.signal_revisions to authenticated;
grant all on public.signal_revisions to service_role;
