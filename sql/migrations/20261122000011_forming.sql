-- Signals of filters that read bars in progress: marked, and one for each bar.
alter table public.signals add column forming boolean not null default false;
comment on column public.signals.forming is 'The filter reads bars in progress: what matched at triggered_at may not hold any more when the bar closes.';
comment on column public.signals.triggered_at is 'The slot at which it matched, close of the bar that matched or (forming) of a minute in it: market time, never a wall clock.';
comment on table public.signals is 'Exactly one row per (trader, symbol, bar); for closed bars the primary key sees to it, for bars in progress the trigger keep_first_of_bar.';
comment on column public.traders.plan_summary is 'What follows from the plan, for people: trigger, timeframes, forming, due_every, operators, lookback_bars, cost, calls_each. Nothing computes from it.';

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

create or replace view public.signal_feed with (security_invoker = true) as
  select s.id, t.name as trader, s.symbol, s.timeframe, s.triggered_at, s.price, s.shown, s.late, s.created_at, s.trader_id, s.user_id, s.forming
    from public.signals s join public.traders t on t.id = s.trader_id;
comment on column vyx.previews.bars is 'How many slots at which the plan is due are looked at (bars of its trigger, or minutes), the newest of them closing at or before until.';
