-- Deliveries: where a user's signals and news go, and the outbox that takes them there.
-- A row of the outbox is written by the statement that writes its signal. Retries, quiet hours, pacing and leases only move
-- next_attempt_at or held_until; there is no second scheduler. app/delivery/ holds the rules, app/store/deliveries.py the statements.

create table public.destinations (
  id              uuid primary key default gen_random_uuid(),
  user_id         uuid not null references auth.users (id) on delete cascade,
  name            text not null,
  kind            text not null,
  hint            text not null,
  events          text[] not null default '{signal}',
  trader_ids      uuid[],
  preset          text,
  template        text,
  quiet_hours     jsonb,
  digest          jsonb,
  rate            jsonb,
  expires_after_s int,
  enabled         boolean not null default true,
  disabled_reason text,
  disabled_at     timestamptz,
  created_at      timestamptz not null default clock_timestamp(),
  updated_at      timestamptz not null default clock_timestamp(),
  constraint destination_name_has_1_to_120_characters check (length(name) between 1 and 120),
  constraint destination_kind_is_known check (kind in ('webhook', 'telegram', 'discord', 'slack', 'email', 'ntfy', 'pushover', 'apprise')),
  constraint destination_events_are_known check (cardinality(events) > 0 and events <@
    array['signal', 'error', 'recovered', 'lagging', 'outage', 'quota', 'destination_disabled']),
  constraint destination_template_has_at_most_8_kib check (octet_length(template) <= 8192),
  constraint expires_after_is_5_s_to_7_days check (expires_after_s between 5 and 604800),
  constraint digest_has_one_rule check (digest is null or digest = '{"per": "bar_close"}'
    or (digest - 'every_s' = '{}' and (digest ->> 'every_s')::int between 60 and 86400)),
  constraint disabled_destination_has_a_reason check (enabled or disabled_reason is not null)
);
create index destinations_user_id_idx on public.destinations (user_id, created_at desc, id);
comment on table public.destinations is 'Where each user''s signals and news are sent. Addresses and secrets are apart, encrypted, in vyx.destination_secrets.';
comment on column public.destinations.hint is 'Enough of the address to recognise it, nothing that would let anyone use it.';
comment on column public.destinations.trader_ids is 'Only these traders; null: all of the user''s.';
comment on column public.destinations.preset is 'Name of a ready-made body for a trading bot; null: the body of the kind.';
comment on column public.destinations.quiet_hours is 'Null, or {"from": "22:00", "until": "07:00", "zone": "Europe/Berlin"}: nothing is sent in between.';
comment on column public.destinations.digest is 'Null, {"every_s": 900} or {"per": "bar_close"}: signals are gathered into one message.';
comment on column public.destinations.rate is 'Null, or {"messages": 10, "per_s": 60}: at most so many.';
comment on column public.destinations.expires_after_s is 'Seconds after the bar''s close beyond which a signal is not sent any more; null: one bar of its timeframe.';

create table vyx.destination_secrets (
  destination_id uuid primary key references public.destinations (id) on delete cascade,
  key_id         text not null,
  sealed         bytea not null
);
comment on table vyx.destination_secrets is 'Address, tokens and signing secrets of a destination: AES-256-GCM under a key made from VYX_SECRET_KEY.';
comment on column vyx.destination_secrets.key_id is 'Which key of VYX_SECRET_KEY sealed it; rows of an older key are sealed again by a job.';

create table vyx.destination_queues (
  destination_id uuid primary key references public.destinations (id) on delete cascade,
  user_id        uuid not null,
  service_key    text,
  held_until     timestamptz not null default 'epoch',
  hold_reason    text,
  paced_until    timestamptz not null default 'epoch',
  failures       int not null default 0,
  failing_since  timestamptz,
  last_digest_at timestamptz not null default 'epoch',
  constraint failing_has_failures check ((failing_since is not null) = (failures > 0))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
comment on table vyx.destination_queues is 'How each destination stands. Its row is locked by whoever takes deliveries for it.';
comment on column vyx.destination_queues.service_key is 'Destinations with the same one share a limit of the service, such as one Telegram bot.';
comment on column vyx.destination_queues.held_until is 'Nothing is sent before: quiet hours, a digest that is gathering, Retry-After, or repeated failures.';
comment on column vyx.destination_queues.paced_until is 'When the sends so far would have ended at the allowed rate (a generic cell rate).';

create table vyx.service_paces (
  service_key text primary key,
  paced_until timestamptz not null default 'epoch'
);
comment on table vyx.service_paces is 'The same for destinations that share a limit of their service.';

create type public.delivery_state as enum ('pending', 'sent', 'failed', 'expired', 'digested');

-- Sources that are no row of the feed (tests, digests, notices) count down, so that they never meet the id of a signal.
create sequence vyx.notice_id as bigint increment -1 start -1;

create table vyx.deliveries (
  source_id       bigint not null,
  destination_id  uuid not null references public.destinations (id) on delete cascade,
  state           public.delivery_state not null default 'pending',
  event           text not null default 'signal',
  user_id         uuid not null,
  trader_id       uuid,
  symbol          text,
  triggered_at    timestamptz,
  notice          jsonb,
  attempts        smallint not null default 0,
  next_attempt_at timestamptz not null default clock_timestamp(),
  expires_at      timestamptz not null,
  queued_at       timestamptz not null default clock_timestamp(),
  sent_at         timestamptz,
  answered_at     timestamptz,
  changed_at      timestamptz,
  status          int,
  answer          text,
  digest_id       bigint,
  lease_token     uuid,
  constraint one_delivery_per_signal_and_destination primary key (destination_id, source_id),
  constraint only_a_pending_delivery_is_leased check (lease_token is null or state = 'pending'),
  constraint sent_delivery_was_answered check (state <> 'sent' or answered_at is not null)
) with (autovacuum_vacuum_scale_factor = 0.02);
create index deliveries_pending_idx on vyx.deliveries (destination_id, next_attempt_at) where state = 'pending';
create index deliveries_untold_idx on vyx.deliveries (destination_id) where state = 'expired' and digest_id is null and event = 'signal';
create index deliveries_ended_idx on vyx.deliveries (destination_id, queued_at) where state <> 'pending';
create index deliveries_tests_idx on vyx.deliveries (source_id) where state = 'pending' and event = 'test';
create index deliveries_digest_idx on vyx.deliveries (digest_id) where digest_id is not null;
create index deliveries_changed_idx on vyx.deliveries (user_id, changed_at) where changed_at is not null;
create index deliveries_queued_at_idx on vyx.deliveries using brin (queued_at);
comment on table vyx.deliveries is 'The outbox: one row per signal (or notice) and destination, with the receipt of its last attempt.';
comment on column vyx.deliveries.source_id is 'Id of the signal; of the trader event; negative: a test, a digest or another notice. The webhook id is msg_<source>_<destination> in every attempt.';
comment on column vyx.deliveries.notice is 'What it says when it is not about a signal; null for a signal, whose row says it.';
comment on column vyx.deliveries.attempts is 'Attempts begun. One without an answer was begun by a sender that died.';
comment on column vyx.deliveries.next_attempt_at is 'Due then. While it is being sent: when the lease of its sender ends.';
comment on column vyx.deliveries.lease_token is 'Of the attempt under way; a receipt with another token is refused.';
comment on column vyx.deliveries.changed_at is 'Of the last receipt or end; null until there is one.';
comment on column vyx.deliveries.answer is 'The first 200 bytes of the answer, or why there was none.';
comment on column vyx.deliveries.digest_id is 'The digest that tells of it.';

-- keep_destination: each destination has a queue; one that is enabled again starts afresh.
create function vyx.keep_destination() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'INSERT' then
    insert into vyx.destination_queues (destination_id, user_id) values (new.id, new.user_id);
  elsif new.enabled and not old.enabled then
    update vyx.destination_queues q set failures = 0, failing_since = null, held_until = 'epoch', hold_reason = null where q.destination_id = new.id;
  end if;
  return null;
end $$;
create trigger keep_destination after insert or update of enabled on public.destinations for each row execute function vyx.keep_destination();

create function vyx.touch_destination() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.user_id is distinct from old.user_id then
    raise exception 'a destination keeps its owner' using errcode = 'VX422';
  end if;
  new.updated_at := clock_timestamp();
  if new.enabled then
    new.disabled_reason := null;
    new.disabled_at := null;
  elsif old.enabled then
    new.disabled_at := clock_timestamp();
    new.disabled_reason := coalesce(new.disabled_reason, 'disabled by hand');
  end if;
  return new;
end $$;
create trigger touch_destination before update on public.destinations for each row execute function vyx.touch_destination();

-- wall_lateness: how long ago, by the wall clock, the market stood at a slot; zero without a market.
create function vyx.wall_lateness(slot timestamptz) returns interval language sql stable set search_path = '' as $$
  select coalesce((select greatest(vyx.market_time() - slot, interval '0') / m.speed from vyx.markets m), interval '0')
$$;

-- queue_notice: one delivery per destination of this user that wants the event. A destination's own end is not told to itself.
create function vyx.queue_notice("user" uuid, event text, notice jsonb, trader uuid default null, source bigint default null, apart_from uuid default null)
returns bigint language sql set search_path = '' as $$
  with source_of as (select coalesce(source, nextval('vyx.notice_id')) as id),
  queued as (
    insert into vyx.deliveries (source_id, destination_id, event, user_id, trader_id, notice, expires_at)
    select s.id, d.id, queue_notice.event, d.user_id, trader, queue_notice.notice, clock_timestamp() + interval '1 day'
      from source_of s, public.destinations d
     where d.user_id = "user" and d.enabled and queue_notice.event = any (d.events) and d.id is distinct from apart_from
       and (trader is null or d.trader_ids is null or trader = any (d.trader_ids))
    on conflict do nothing
    returning 1)
  select count(*) from queued
$$;
comment on function vyx.queue_notice is 'Tell a user''s destinations of something that is not a signal; returns to how many.';

-- queue_trader_notices: a trader that goes to error, or runs again after one, or was stopped for its owner's tier, is news.
create function vyx.queue_trader_notices() returns trigger language plpgsql set search_path = '' as $$
begin
  insert into vyx.deliveries (source_id, destination_id, event, user_id, trader_id, notice, expires_at)
  select e.id, d.id, e.event, d.user_id, e.trader_id,
         jsonb_build_object('trader_id', e.trader_id, 'trader_name', e.name, 'from', e.from_state, 'state', e.to_state, 'reason', e.why, 'at', e.at),
         clock_timestamp() + interval '1 day'
    from (select c.*, t.name, coalesce(case when c.to_state = 'error' then s.last_error end, c.reason) as why,
                 case when c.from_state = c.to_state and c.reason like 'flooding:%' then 'quota'  -- the reason of put_digests
                      when c.to_state = 'error' and c.from_state <> 'error' then 'error'
                      when c.from_state = 'starting' and c.to_state = 'running' and s.error_count > 0 then 'recovered'
                      when c.from_state <> 'stopping' and c.to_state in ('stopping', 'stopped')
                      and c.reason like '% tier runs at most %' then 'quota' end as event  -- the reason of vyx.stop_beyond_tiers_v1
            from changed c join public.traders t on t.id = c.trader_id join public.trader_state s on s.trader_id = c.trader_id) e
    join public.destinations d on d.user_id = e.user_id and d.enabled and e.event = any (d.events)
     and (d.trader_ids is null or e.trader_id = any (d.trader_ids))
   order by e.id, d.id
  on conflict do nothing;
  return null;
end $$;
create trigger queue_trader_notices after insert on public.trader_events
  referencing new table as changed for each statement execute function vyx.queue_trader_notices();

create table vyx.troubles (
  user_id uuid not null references auth.users (id) on delete cascade,
  event   text not null,
  since   timestamptz not null default clock_timestamp(),
  primary key (user_id, event),
  constraint trouble_is_an_outage_or_a_lag check (event in ('outage', 'lagging'))
);
comment on table vyx.troubles is 'What each user has been told of and has not been told the end of: one message per user, not one per trader or slot.';

-- queue_troubles_v1: called each minute. Tells users with active traders of an outage of the market, or that traders lag behind it,
-- once; and that it is over, once. Patience as in app/domain/health.py: 120 s of market time, 2 s of real time.
create function vyx.queue_troubles_v1() returns bigint language plpgsql set search_path = '' as $$
declare
  facts record;
  patience interval;
  is_outage boolean;
  why text;
  queued bigint;
begin
  perform pg_advisory_xact_lock(7010, 1);
  select * into facts from vyx.market_facts;
  patience := make_interval(secs => greatest(120, 2 * facts.speed));
  is_outage := coalesce(facts.market_at < coalesce(facts.ends_at, 'infinity')
                        and (facts.newest_closed_is_outage or facts.oldest_open < facts.market_at - patience), false);
  why := coalesce(facts.outage_reason, 'no candles have come since ' || facts.oldest_open);
  with active as (
    select s.user_id, s.trader_id, t.name, coalesce(not is_outage and vyx.screened_through(s) < facts.newest_closed - patience, false) as lags
      from public.trader_state s join public.traders t on t.id = s.trader_id
     where s.state in ('starting', 'running')
       and exists (select from public.destinations d where d.user_id = s.user_id and d.enabled and d.events && array['outage', 'lagging'])),
  now_so as (
    select distinct a.user_id, 'outage' as event, jsonb_build_object('reason', why, 'at', clock_timestamp()) as notice from active a where is_outage
    union all
    select a.user_id, 'lagging', jsonb_build_object('count', count(*), 'traders', (array_agg(a.name order by a.name))[1:20], 'at', clock_timestamp(),
             'reason', 'screened later than ' || patience || ' after the close: ' || left(string_agg(a.name, ', ' order by a.name), 500))
      from active a where a.lags group by a.user_id),
  begun as (
    insert into vyx.troubles (user_id, event) select n.user_id, n.event from now_so n on conflict do nothing returning user_id, event),
  over as (
    delete from vyx.troubles t
     where not exists (select from now_so n where n.user_id = t.user_id and n.event = t.event) and (t.event = 'outage' or not is_outage)
    returning t.user_id, t.event, t.since)
  select sum(told) into queued from (
    select vyx.queue_notice(b.user_id, b.event, n.notice) as told from begun b join now_so n using (user_id, event)
    union all
    select vyx.queue_notice(o.user_id, 'recovered', jsonb_build_object('what', o.event, 'since', o.since, 'at', clock_timestamp())) from over o) x;
  return coalesce(queued, 0);
end $$;

-- redrive_deliveries_v1: what ended without arriving is due again, with the same id and an hour to arrive.
create function vyx.redrive_deliveries_v1("user" uuid, signal bigint, destination uuid, since timestamptz, until timestamptz, states public.delivery_state[])
returns bigint language sql set search_path = '' as $$
  with again as (
    update vyx.deliveries d
       set state = 'pending', attempts = 0, next_attempt_at = clock_timestamp(), changed_at = clock_timestamp(), digest_id = null,
           expires_at = greatest(d.expires_at, clock_timestamp() + interval '1 hour')
     where d.state = any (states) and d.state in ('failed', 'expired')
       and ("user" is null or d.user_id = "user") and (signal is null or d.source_id = signal)
       and (destination is null or d.destination_id = destination)
       and (since is null or d.queued_at >= since) and (redrive_deliveries_v1.until is null or d.queued_at < redrive_deliveries_v1.until)
    returning d.destination_id),
  unheld as (
    update vyx.destination_queues q set held_until = 'epoch', hold_reason = null
     where q.destination_id in (select a.destination_id from again a) and q.hold_reason = 'failing')
  select count(*) from again
$$;

create function public.redrive_deliveries(since timestamptz, until timestamptz default null, destination uuid default null, signal bigint default null,
                                          expired_too boolean default false) returns bigint language sql set search_path = '' as $$
  select vyx.redrive_deliveries_v1(null, signal, destination, since, until,
    case when expired_too then array['failed', 'expired'] else array['failed'] end::public.delivery_state[])
$$;
comment on function public.redrive_deliveries is 'Send again what failed: select redrive_deliveries(''2026-11-28 03:00Z'', ''2026-11-28 04:00Z''). Expired ones only when asked.';

create view public.delivery_overview with (security_invoker = true) as
  select d.source_id, case when d.event = 'signal' then d.source_id end as signal_id, t.name as trader, d.symbol, d.triggered_at, n.name as destination,
         n.kind, d.event, d.state, d.attempts, d.status, d.answer, d.queued_at, d.sent_at, d.answered_at,
         case when d.state = 'pending' then greatest(d.next_attempt_at, q.held_until) end as next_attempt_at,
         case when q.held_until > clock_timestamp() then q.hold_reason end as hold_reason, d.expires_at,
         round(extract(epoch from d.answered_at - d.queued_at) * 1000) as queued_to_answered_ms, d.destination_id, d.trader_id, d.user_id
    from vyx.deliveries d join public.destinations n on n.id = d.destination_id
    join vyx.destination_queues q on q.destination_id = d.destination_id
    left join public.traders t on t.id = d.trader_id;
comment on view public.delivery_overview is 'One line per delivery with its receipt; order by queued_at desc for the newest.';

alter table public.destinations       enable row level security;
alter table vyx.destination_secrets   enable row level security;
alter table vyx.destination_queues    enable row level security;
alter table vyx.service_paces         enable row level security;
alter table vyx.deliveries            enable row level security;
alter table vyx.troubles              enable row level security;
create policy destinations_owner_select on public.destinations for select to authenticated using ((select auth.uid()) = user_id);
revoke all on public.destinations, public.delivery_overview from anon, authenticated;
grant select on public.destinations to authenticated;
grant all on public.destinations to service_role;
grant all on vyx.destination_secrets, vyx.destination_queues, vyx.service_paces, vyx.deliveries, vyx.troubles to service_role;
grant select on public.delivery_overview to service_role;
grant usage on sequence vyx.notice_id to service_role;
revoke all on function public.redrive_deliveries from public, anon, authenticated;
grant execute on function public.redrive_deliveries to service_role;
