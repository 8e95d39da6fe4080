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
  created_at timestamptz not null default clock_timestamp(),
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
create index previews_user_id_idx on vyx.previews (user_id);
create index previews_trader_id_idx on vyx.previews (trader_id) where trader_id is not null;
comment on table vyx.previews is 'Filters run over recent history without being saved, and audits of traders. The web process waits for the row to end; it is pruned after an hour.';
comment on column vyx.previews.trader_id is 'The trader whose signals are audited from since through until; null for a preview.';
comment on column vyx.previews.plan is 'The compiled filter. Validated again by the process that evaluates it.';
comment on column vyx.previews.bars is 'How many slots at which the plan is due are looked at (bars of its trigger, or minutes), the newest of them closing at or before until.';
comment on column vyx.previews.symbols is 'Null: every pair of the market.';
comment on column vyx.previews.result is 'The answer as the HTTP interface gives it.';
comment on column vyx.previews.problem is 'Why there is no answer, in a sentence for its user.';

alter table vyx.previews enable row level security;
grant all on vyx.previews to service_role;
