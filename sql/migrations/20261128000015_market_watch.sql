-- What people and machines watch of the market beside its candles: from where machines ask, and how far history reaches.
create table vyx.machine_addresses (
  boot_id bigint primary key references vyx.machines (boot_id) on delete cascade,
  address text not null
);
comment on table vyx.machine_addresses is 'From which address a machine reaches the exchange, as far as it knows: a machine that is held lets one at another address feed.';
alter table vyx.machine_addresses enable row level security;
grant all on vyx.machine_addresses to service_role;

create view public.history_overview with (security_invoker = true) as
  select s.symbol, r.timeframe, lower(r.known) as from_open, upper(r.known) as through_close,
         tstzmultirange(range_merge(r.known)) - r.known as gaps, r.absent, s.screened, s.waits_for
    from vyx.candle_ranges r join vyx.symbols s using (symbol_id);
comment on view public.history_overview is 'How far the history of each pair and timeframe reaches, and which bars are not known yet.';
revoke all on public.history_overview from anon, authenticated;
grant select on public.history_overview to service_role;
