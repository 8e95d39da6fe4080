-- Market data: one market per database, its symbols, closed candles, and the ledger of slots.
create type vyx.timeframe as enum ('1m', '3m', '5m', '15m', '30m', '1h', '2h', '4h', '6h', '8h', '12h', '1d');

create table vyx.markets (
  only_one         boolean primary key default true,
  source           text not null,
  chosen_by_auto   boolean not null default false,
  speed            double precision not null default 1,
  anchor_market_at timestamptz not null,
  anchor_wall_at   timestamptz not null default now(),
  ends_at          timestamptz,
  constraint one_market_per_database check (only_one),
  constraint speed_is_positive check (speed > 0)
);
comment on table vyx.markets is 'The market this database holds, and how its time follows the wall clock: market = anchor_market_at + (wall - anchor_wall_at) * speed, never past ends_at. Binance has speed 1 and both anchors equal.';
comment on column vyx.markets.source is 'binance, simulated or the file market''s fingerprint; a process with another market refuses to start here.';
comment on column vyx.markets.chosen_by_auto is 'Nobody named this market: a simulated one gives way to Binance as long as only the demo user lives here.';
comment on column vyx.markets.ends_at is 'A file market stands still here; null for an endless one.';

-- market_time: the market's clock at an instant of the wall clock (now when null); null without a market.
create function vyx.market_time(wall timestamptz default null) returns timestamptz
language sql stable set search_path = '' as $$
  select least(m.anchor_market_at + (coalesce(wall, clock_timestamp()) - m.anchor_wall_at) * m.speed, m.ends_at) from vyx.markets m
$$;
comment on function vyx.market_time is 'The market''s clock for an instant of the wall clock.';

create table vyx.symbols (
  symbol_id   int generated always as identity primary key,
  symbol      text not null unique,
  base        text not null,
  quote       text not null,
  trading     boolean not null default true,
  listed_at   timestamptz not null default now(),
  halted_at   timestamptz,
  reason      text,
  screened    boolean not null default false,
  waits_for   text,
  retry_at    timestamptz,
  join_count  int not null default 0,
  constraint symbol_is_not_empty check (symbol <> ''),
  constraint only_a_halted_pair_has_a_reason check (trading = (halted_at is null) and trading = (reason is null)),
  constraint only_a_trading_pair_is_screened check (trading or not screened),
  constraint only_an_unscreened_pair_waits check (not screened or (waits_for is null and retry_at is null))
);
comment on table vyx.symbols is 'Pairs ever screened. trading says whether the exchange lists the pair as TRADING now.';
comment on column vyx.symbols.listed_at is 'When the pair was first seen listed; of a pair that was there at the first start, when that was.';
comment on column vyx.symbols.reason is 'Why the pair is not screened now: its status on the exchange, or a limit of the universe.';
comment on column vyx.symbols.screened is 'Its history is whole, and slots wait for its candle. False: it waits for its history, or does not trade.';
comment on column vyx.symbols.waits_for is 'What a trading pair without whole history waits for; its own backoff ends at retry_at.';
comment on column vyx.symbols.join_count is 'How often its history became whole. A change tells panels to read their frames again.';

-- halt_pair: Studio, too, may set trading to false; the other columns follow.
create function vyx.halt_pair() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.trading then
    new.halted_at := null;
    new.reason := null;
  else
    new.halted_at := coalesce(new.halted_at, clock_timestamp());
    new.reason := coalesce(new.reason, 'taken out by hand');
    new.screened := false;
    new.waits_for := null;
    new.retry_at := null;
  end if;
  return new;
end $$;
create trigger halt_pair before insert or update of trading on vyx.symbols for each row execute function vyx.halt_pair();

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
  trade_count  bigint not null default 0,
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
  corrected_at  timestamptz not null default now(),
  screened_again_at timestamptz
);
create index candle_corrections_to_screen_idx on vyx.candle_corrections (correction_id) where screened_again_at is null;
create index candle_corrections_symbol_id_idx on vyx.candle_corrections (symbol_id);
comment on table vyx.candle_corrections is 'Candles that arrived after their slot had closed (was is null) or that the exchange changed afterwards.';

comment on column vyx.candle_corrections.screened_again_at is 'When its slot was screened again, to report in signal_revisions what it would have changed.';

create table vyx.candle_ranges (
  symbol_id int not null references vyx.symbols (symbol_id),
  timeframe vyx.timeframe not null,
  known     tstzmultirange not null default '{}',
  absent    tstzmultirange not null default '{}',
  primary key (symbol_id, timeframe),
  constraint absent_bars_are_known check (known @> absent)
) with (fillfactor = 70);
comment on table vyx.candle_ranges is 'Of which bars the exchange has been asked. Every bar in known is a row of candles, except those in absent; what lies between two pieces of known is a gap and gets filled.';
comment on column vyx.candle_ranges.known is 'Spans of open times, upper end exclusive.';
comment on column vyx.candle_ranges.absent is 'Bars that the exchange does not have (outage, not listed yet, halted), or that were refused: candle_refusals says why.';

create table vyx.candle_refusals (
  refusal_id bigint generated always as identity primary key,
  symbol_id  int not null references vyx.symbols (symbol_id),
  timeframe  vyx.timeframe not null,
  open_time  timestamptz not null,
  source     text not null,
  what       text not null,
  raw        text not null,
  refused_at timestamptz not null default clock_timestamp(),
  constraint one_refusal_per_bar_and_source unique (symbol_id, timeframe, open_time, source),
  constraint source_is_known check (source in ('stream', 'rest', 'file')),
  constraint raw_text_is_bounded check (octet_length(raw) <= 1000)
);
comment on table vyx.candle_refusals is 'Candles set aside because no candle can be like that. Each was asked again by REST once; a bar refused by both sources stays absent.';
comment on column vyx.candle_refusals.open_time is 'The bar it stands for: an open time off the grid is moved to the nearest bar, the text says what it was.';
comment on column vyx.candle_refusals.raw is 'What the exchange sent, its first 1,000 bytes.';

create table vyx.history_checks (
  check_id   bigint generated always as identity primary key,
  checked_at timestamptz not null default clock_timestamp(),
  ranges     int not null,
  bars       bigint not null,
  wrong      jsonb not null default '[]'
);
comment on table vyx.history_checks is 'What comparing the rows of candles with candle_ranges found; a wrong range is forgotten and fetched again.';

create table vyx.exchange_holds (
  host          text not null,
  address       text not null,
  held_until    timestamptz,
  held_s        double precision not null default 0,
  status        int,
  reason        text,
  weight_minute timestamptz,
  weight_used   int not null default 0,
  changed_at    timestamptz not null default clock_timestamp(),
  primary key (host, address),
  constraint a_hold_has_a_reason check (held_until is null or reason is not null)
);
comment on table vyx.exchange_holds is 'Until when an exchange must not be asked from an address, and the weight that address has used. Whoever feeds obeys it, after any restart.';
comment on column vyx.exchange_holds.address is 'The address a machine reaches the exchange from, as far as it knows: behind a gateway, its own.';
comment on column vyx.exchange_holds.held_until is 'Stays after its time: one probe is allowed then. An answer clears it, another refusal doubles held_s.';
comment on column vyx.exchange_holds.status is 'HTTP status that said so; null: the breaker opened after failures in a row.';

create table vyx.market_progress (
  only_one      boolean primary key default true,
  stage         text not null,
  reason        text,
  history_done  int not null default 0,
  history_total int not null default 0,
  changed_at    timestamptz not null default clock_timestamp(),
  constraint one_progress_per_database check (only_one),
  constraint stage_is_known check (stage in ('starting', 'held', 'history', 'live'))
);
comment on table vyx.market_progress is 'What whoever feeds the market is doing, for status and health.';

create type vyx.slot_state as enum ('open', 'complete', 'outage');
create table vyx.slots (
  slot             timestamptz primary key,
  state            vyx.slot_state not null default 'open',
  symbols_expected int not null default 0,
  symbols_missing  int not null default 0,
  missing          text[] not null default '{}',
  missing_reasons  jsonb not null default '{}',
  reason           text,
  opened_at        timestamptz not null default clock_timestamp(),
  closed_at        timestamptz,
  constraint slot_is_a_minute_boundary check (date_trunc('minute', slot, 'UTC') = slot),
  constraint closed_slot_has_an_instant check ((state <> 'open') = (closed_at is not null)),
  constraint outage_has_a_reason check (state <> 'outage' or reason is not null)
);
create index slots_lacking_idx on vyx.slots (slot) where state = 'complete' and symbols_missing > 0;
create index slots_not_complete_idx on vyx.slots (slot) where state <> 'complete';
comment on table vyx.slots is 'The ledger: every minute boundary at which bars close. open: waiting for candles; complete: candles are rows, screen it; outage: the exchange had no candle, skipped with a reason.';
comment on column vyx.slots.missing is 'Symbols without a candle in this slot, at most 20 names; symbols_missing is the number.';

comment on column vyx.slots.missing_reasons is 'Why each symbol named in missing has no candle.';

-- newest_slot: where the ledger stands, whatever the state of the slot.
create function vyx.newest_slot() returns timestamptz language sql stable set search_path = '' as $$
  select max(slot) from vyx.slots
$$;
-- newest_closed_slot: the last slot that can be, or has been, accounted for.
create function vyx.newest_closed_slot() returns timestamptz language sql stable set search_path = '' as $$
  select slot from vyx.slots where state <> 'open' order by slot desc limit 1
$$;

alter table vyx.markets enable row level security;
alter table vyx.symbols enable row level security;
alter table vyx.candles enable row level security;
alter table vyx.candle_corrections enable row level security;
alter table vyx.candle_ranges enable row level security;
alter table vyx.candle_refusals enable row level security;
alter table vyx.history_checks enable row level security;
alter table vyx.exchange_holds enable row level security;
alter table vyx.market_progress enable row level security;
alter table vyx.slots enable row level security;
grant all on vyx.markets, vyx.symbols, vyx.candles, vyx.candle_corrections, vyx.candle_ranges, vyx.candle_refusals,
  vyx.history_checks, vyx.exchange_holds, vyx.market_progress, vyx.slots to service_role;
