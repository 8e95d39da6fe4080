-- A preview: a filter run over recent history for a request that waits for the answer. The row carries the question to whichever
-- machine takes the job, and the answer back; nobody reads it an hour later.
create type vyx.preview_state as enum ('waiting', 'running', 'done', 'failed', 'timeout');

create table vyx.previews (
  preview_id uuid primary key default gen_random_uuid(),
  state      vyx.preview_state not null default 'waiting',
  user_id    uuid not null references auth.users (id) on delete cascade,
  plan       jsonb,
  bars       int,
  symbols    text[],
  trader_id  uuid references public.traders (id) on delete cascade,
  since      timestamptz,
  until      timestamptz not null,
  result     jsonb,
  problem    text,
  bars_done  int not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  worked_at  timestamptz,
  ended_at   timestamptz,
  constraint bars_are_1_to_1000 check (bars between 1 and 1000),
  constraint previewed_symbols_are_not_empty check (cardinality(symbols) > 0),
  constraint a_preview_has_a_plan_and_an_audit_a_trader check (
    (plan is not null and bars is not null and trader_id is null and since is null)
    or (plan is null and bars is null and symbols is null and trader_id is not null and since is not null)),
  constraint only_a_done_preview_has_a_result check ((state = 'done') = (result is not null)),
  constraint only_a_failed_preview_has_a_problem check ((state in ('failed', 'timeout')) = (problem is not null)),
  constraint only_an_ended_preview_has_an_end check ((state in ('done', 'failed', 'timeout')) = (ended_at is not null))
);
create index previews_created_at_idx on vyx.previews (created_at);
create index previews_user_id_idx on vyx.previews (user_id, created_at);
create index previews_waiting_idx on vyx.previews (created_at) where state = 'waiting';
create index previews_trader_id_idx on vyx.previews (trader_id) where trader_id is not null;
comment on table vyx.previews is 'Filters run over recent history without being saved, and audits of traders. The web process waits for the row to end; it is pruned after an hour.';
comment on column vyx.previews.trader_id is 'The trader whose signals are audited from since through until; null for a preview.';
comment on column vyx.previews.plan is 'The compiled filter. Validated again by the process that evaluates it.';
comment on column vyx.previews.bars is 'How many slots at which the plan is due are looked at (bars of its trigger, or minutes), the newest of them closing at or before until.';
comment on column vyx.previews.symbols is 'Null: every pair of the market.';
comment on column vyx.previews.result is 'The answer as the HTTP interface gives it.';
comment on column vyx.previews.problem is 'Why there is no answer, in a sentence for its user.';

comment on column vyx.previews.bars_done is 'How many of the bars have been looked at so far, the newest first.';
comment on column vyx.previews.started_at is 'When a machine began to answer.';
comment on column vyx.previews.worked_at is 'When that machine last got on with it. One that is silent for long has died; its preview is not counted as being worked on.';

-- claim_preview_v1: begin to answer the preview whose turn it is; no row when nothing may begin.
-- The rule of app/domain/turns.py over rows: at most in_flight_max of a user are worked on, and the turn belongs to the user whose last
-- event (joining, a beginning, an end) is oldest. One claim at a time (key 7005, 1): two at once would not see each other's begin.
create function vyx.claim_preview_v1(wait_s double precision, silent_s double precision, in_flight_max int) returns setof vyx.previews
language plpgsql set search_path = '' as $$
declare chosen uuid; now_is timestamptz;
begin
  perform pg_advisory_xact_lock(7005, 1);
  now_is := clock_timestamp();
  with lines as (
    select w.user_id, min(w.created_at) as joined_at from vyx.previews w
     where w.state = 'waiting' and w.created_at > now_is - make_interval(secs => wait_s)
     group by w.user_id
  ), turns as (
    select l.user_id, greatest(l.joined_at, h.started_at, h.ended_at) as turn_at
      from lines l
     cross join lateral (
       select max(p.started_at) as started_at, max(p.ended_at) as ended_at,
              count(*) filter (where p.state = 'running' and p.worked_at > now_is - make_interval(secs => silent_s)) as in_flight
         from vyx.previews p
        where p.user_id = l.user_id and p.created_at > now_is - interval '5 min') h
     where h.in_flight < in_flight_max
  )
  select p.preview_id into chosen
    from vyx.previews p join turns t using (user_id)
   where p.state = 'waiting' and p.created_at > now_is - make_interval(secs => wait_s)
   order by t.turn_at, p.created_at, p.preview_id
   limit 1 for update of p skip locked;
  return query
    update vyx.previews p set state = 'running', started_at = clock_timestamp(), worked_at = clock_timestamp()
     where p.preview_id = chosen and p.state = 'waiting'
    returning p.*;
end $$;
comment on function vyx.claim_preview_v1 is 'Begin to answer the preview whose turn it is, by user turns; no row when nothing may begin.';
revoke all on function vyx.claim_preview_v1 from public;
grant execute on function vyx.claim_preview_v1 to service_role;

alter table vyx.previews enable row level security;
grant all on vyx.previews to service_role;
