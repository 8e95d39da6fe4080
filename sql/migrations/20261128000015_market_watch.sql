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

-- forget_simulated_market_v1: a simulated market that nobody named makes room for a real one, with everything that came of its invented
-- prices. False, and nothing happens, when it was named, when anybody but the demo user lives here, or when its time runs ahead of ours.
create function vyx.forget_simulated_market_v1(demo uuid) returns boolean language plpgsql set search_path = '' as $$
begin
  perform from vyx.markets m where m.source = 'simulated' and m.chosen_by_auto for update;
  if not found or exists (select from auth.users u where u.id <> demo) or coalesce(vyx.newest_slot() > clock_timestamp(), false) then
    return false;
  end if;
  delete from public.signals;
  delete from public.signal_digests;
  delete from vyx.leases;
  truncate vyx.candles, vyx.candle_corrections, vyx.candle_ranges, vyx.candle_refusals, vyx.history_checks, vyx.slots, vyx.market_progress, vyx.prunings;
  update vyx.symbols set trading = false, reason = 'of the simulated market', join_count = join_count + 1;
  delete from vyx.markets;
  return true;
end $$;
comment on function vyx.forget_simulated_market_v1 is 'Remove a simulated market that was only a stand-in, and what was screened on it.';
revoke all on function vyx.forget_simulated_market_v1 from public, anon, authenticated;
grant execute on function vyx.forget_simulated_market_v1 to service_role;
