-- whose_database --
-- Whether it is migrated, and whether its auth.users is the auth server's own (ours of plain Postgres stores no password).
select to_regclass('public.tiers') is not null and to_regclass('vyx.machines') is not null,
       exists (select from pg_catalog.pg_attribute a where a.attrelid = to_regclass('auth.users') and a.attname = 'encrypted_password');

-- has_user --
-- Whether there is this user.
select exists (select from auth.users u where u.id = %(user_id)s);

-- put_user --
-- On plain Postgres; on Supabase users come from sign-up.
insert into auth.users (id, aud, role) values (%(user_id)s, 'authenticated', 'authenticated') on conflict do nothing;

-- set_tier --
-- As a person in Studio would.
select public.set_tier(%(user_id)s, %(tier)s);

-- has_traders --
-- Is this database anybody's already?
select exists (select from public.traders);

-- put_demo_trader --
-- An example, saved and started.
with saved as (
  insert into public.traders (user_id, name, filter, plan, plan_hash, plan_summary, frequency)
  values (%(user_id)s, %(name)s, %(filter)s, %(plan)s::jsonb, %(plan_hash)s, %(plan_summary)s, '"every_bar"')
  returning id)
select id from saved;

-- start_all_of --
-- Start every trader of a user.
select vyx.start_trader_v1(s.trader_id) from public.trader_state s where s.user_id = %(user_id)s and s.state = 'stopped';

-- drain --
-- As a person in Studio would.
select public.drain_machine(%(machine)s);

-- ledger --
-- Where the market stands.
select (select source from vyx.markets), vyx.market_time(), vyx.newest_closed_slot(),
       (select count(*) from vyx.slots where state = 'open'), (select count(*) from vyx.slots where state = 'outage');

-- machines --
-- Those that live or died within the hour.
select machine_id, boot_id, state::text, heartbeat_age_s::float8, screened_through,
       greatest(0, extract(epoch from vyx.newest_closed_slot() - screened_through))::float8 as lag_s, traders
  from public.machine_overview
 where state <> 'dead' or ended_at > now() - interval '1 hour' order by boot_id;

-- traders --
-- How many in which state.
select state::text, count(*) from public.trader_state group by state;

-- redeliver --
-- Dead letters go back to their queues, except those for machines that are gone and those that wait there already. A job that
-- waits is unique by its queueing lock, so of several dead ones with one lock the newest goes.
with dead as (
  select distinct on (coalesce(j.queueing_lock, j.id::text)) j.id
    from procrastinate.procrastinate_jobs j
   where j.status in ('failed', 'aborted')
     and (j.queue_name not like 'm.%%' or exists (select from vyx.machines m where m.state <> 'dead' and j.queue_name = 'm.' || m.boot_id))
     and not exists (select from procrastinate.procrastinate_jobs w where w.status = 'todo' and w.queueing_lock = j.queueing_lock)
   order by coalesce(j.queueing_lock, j.id::text), j.id desc
)
update procrastinate.procrastinate_jobs j set status = 'todo', abort_requested = false, scheduled_at = now(), attempts = j.attempts + 1
  from dead where j.id = dead.id;

-- dead_letters --
-- How many there are.
select count(*) from public.dead_letters;

-- use_job_schema --
-- procrastinate's triggers name their tables without a schema.
select set_config('search_path', 'procrastinate', true);
