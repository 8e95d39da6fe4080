-- Market data: one market per database, its symbols, closed candles, and the ledger of slots.
create type vyx.timeframe as enum ('1m', '3m', '5m', '15m', '30m', '1h', '2h', '4h', '6h', '8h', '12h', '1d');

create table vyx.markets (
  only_one         boolean primary key default true,
  source           text not null,
  speed            double precision not null default 1,
  anchor_market_at timestamptz not null,
  anchor_wall_at   timestamptz not null default now(),
  ends_at          timestamptz,
  constraint one_market_per_database check (only_one),
  constraint speed_is_positive check (speed > 0)
);
comment on table vyx.markets is 'The market this database holds, and how its time follows the wall clock: market = anchor_market_at + (wall - anchor_wall_at) * speed, never past ends_at. Binance has speed 1 and both anchors equal.';
comment on column vyx.markets.source is 'binance, simulated or the file market''s fingerprint; a process with another market refuses to start here.';
comment on column vyx.markets.ends_at is 'A file market stands still here; null for an endless one.';

-- market_time: the market's clock at an instant of the wall clock (now when null); null without a market.
create function vyx.market_time(wall timestamptz default null) returns timestamptz
language sql stable set search_path = '' as $$
  select least(m.anchor_market_at + (coalesce(wall, clock_timestamp()) - m.anchor_wall_at) * m.speed, m.ends_at) from vyx.markets m
$$;
comment on function vyx.market_time is 'The market''s clock for an instant of the wall clock.';

create table vyx.symbols (
  symbol_id int generated always as identity primary key,
  symbol    text not null unique,
  base      text not null,
  quote     text not null,
  trading   boolean not null default true,
  listed_at timestamptz not null default now(),
  constraint symbol_is_not_empty check (symbol <> '')
);
comment on table vyx.symbols is 'Pairs ever screened. trading says whether the exchange lists the pair as TRADING now.';

create table vyx.candles (
  symbol_id    int not null references vyx.symbols (symbol_id),
  timeframe    vyx.timeframe not null,
  open_time    timestamptz not null,
  open         double precision not null,
  high         double precision not null,
  low          double precision not null,
  close        double precision not null,
  volume       double precision not null,
  quote_volume double precision not null default 0,
  trade_count  int not null default 0,
  primary key (timeframe, symbol_id, open_time),
  constraint high_is_highest check (high >= open and high >= close and high >= low),
  constraint low_is_lowest check (low <= open and low <= close),
  constraint prices_are_positive check (low > 0),
  constraint volume_is_not_negative check (volume >= 0)
);
create index candles_timeframe_open_time_idx on vyx.candles (timeframe, open_time);
comment on table vyx.candles is 'Closed candles only; a row never changes except by a correction that is recorded in candle_corrections.';
comment on column vyx.candles.open_time is 'Start of the bar; it closes at open_time + timeframe, exclusive.';

create table vyx.candle_corrections (
  correction_id bigint generated always as identity primary key,
  symbol_id     int not null references vyx.symbols (symbol_id),
  timeframe     vyx.timeframe not null,
  open_time     timestamptz not null,
  was           jsonb,
  became        jsonb not null,
  reason        text not null,
  corrected_at  timestamptz not null default now()
);
create index candle_corrections_symbol_id_idx on vyx.candle_corrections (symbol_id);
comment on table vyx.candle_corrections is 'Candles that arrived after their slot had closed (was is null) or that the exchange changed afterwards.';

create type vyx.slot_state as enum ('open', 'complete', 'outage');
create table vyx.slots (
  slot             timestamptz primary key,
  state            vyx.slot_state not null default 'open',
  symbols_expected int not null default 0,
  symbols_missing  int not null default 0,
  missing          text[] not null default '{}',
  reason           text,
  opened_at        timestamptz not null default clock_timestamp(),
  closed_at        timestamptz,
  constraint slot_is_a_minute_boundary check (date_trunc('minute', slot, 'UTC') = slot),
  constraint closed_slot_has_an_instant check ((state <> 'open') = (closed_at is not null)),
  constraint outage_has_a_reason check (state <> 'outage' or reason is not null)
);
create index slots_not_complete_idx on vyx.slots (slot) where state <> 'complete';
comment on table vyx.slots is 'The ledger: every minute boundary at which bars close. open: waiting for candles; complete: candles are rows, screen it; outage: the exchange had no candle, skipped with a reason.';
comment on column vyx.slots.missing is 'Symbols without a candle in this slot, at most 20 names; symbols_missing is the number.';

-- newest_slot: where the ledger stands, whatever the state of the slot.
create function vyx.newest_slot() returns timestamptz language sql stable set search_path = '' as $$
  select max(slot) from vyx.slots
$$;
-- newest_closed_slot: the last slot that can be, or has been, accounted for.
create function vyx.newest_closed_slot() returns timestamptz language sql stable set search_path = '' as $$
  select slot from vyx.slots where state <> 'open' order by slot desc limit 1
$$;

-- keep_slots: a slot that vanishes would be passed over by every machine without a word.
create function vyx.keep_slots() returns trigger language plpgsql set search_path = '' as $$
begin
  if old.slot > vyx.newest_slot() - interval '1 day' then
    raise exception 'the slot % is too young to be deleted: machines count on every slot of the last day', old.slot using errcode = 'VX422';
  end if;
  return old;
end $$;
create trigger keep_slots before delete on vyx.slots for each row execute function vyx.keep_slots();

alter table vyx.markets enable row level security;
alter table vyx.symbols enable row level security;
alter table vyx.candles enable row level security;
alter table vyx.candle_corrections enable row level security;
alter table vyx.slots enable row level security;
grant all on vyx.markets, vyx.symbols, vyx.candles, vyx.candle_corrections, vyx.slots to service_role;
