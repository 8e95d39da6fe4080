-- find_user --
-- Whether a token's subject is a user of this database, and whether their account has been made.
select exists (select from auth.users u where u.id = %(user_id)s),
       exists (select from public.accounts a where a.user_id = %(user_id)s);

-- put_account --
-- A user's account; it goes with the user, and says so to every web process.
insert into public.accounts (user_id) values (%(user_id)s) on conflict do nothing;

-- missing_users --
-- Those of these users that are gone.
select given.user_id from unnest(%(user_ids)s::uuid[]) given (user_id)
 where not exists (select from auth.users u where u.id = given.user_id);

-- stream_limit --
-- How many streams the user's tier may hold open on a web process.
select t.max_streams from public.tiers t
 where t.tier = coalesce((select a.tier from public.accounts a where a.user_id = %(user_id)s), 'free');

-- find_account --
-- Tier, limit and use of one user; a user without a row is on the free tier.
select coalesce(a.tier, 'free') as tier, t.max_running, t.max_stored, t.max_streams, t.signals_per_day, vyx.active_traders(%(user_id)s) as running,
       (select count(*) from public.traders o where o.user_id = %(user_id)s) as stored
  from (values (%(user_id)s::uuid)) u (user_id)
  left join public.accounts a using (user_id)
  join public.tiers t on t.tier = coalesce(a.tier, 'free');

-- list_tiers --
-- What each tier allows, the smallest first.
select t.tier, t.max_running, t.max_stored, t.max_streams, t.signals_per_day from public.tiers t order by t.max_running nulls last, t.tier;

-- full_quota --
-- The quota that starting this trader would break, if it would; no row when there is room or the trader counts already.
select q.tier, q.max_running as "limit", q.used, vyx.next_tier('running_traders', q.used) as next_tier
  from public.trader_state s
  cross join lateral (
    select t.tier, t.max_running, vyx.active_traders(s.user_id) as used
      from public.tiers t
     where t.tier = coalesce((select a.tier from public.accounts a where a.user_id = s.user_id), 'free')) q
 where s.trader_id = %(trader_id)s and s.user_id = %(user_id)s
   and s.state in ('stopped', 'error') and s.retry_at is null and q.used >= q.max_running;

-- put_user --
-- On plain Postgres; on Supabase users come from sign-up.
insert into auth.users (id, aud, role) values (%(user_id)s, 'authenticated', 'authenticated') on conflict do nothing;

-- set_tier --
-- As a person in Studio would.
select public.set_tier(%(user_id)s, %(tier)s);

-- whose_database --
-- Whether it is migrated, and whether its auth.users is the auth server's own (ours of plain Postgres stores no password).
select to_regclass('public.tiers') is not null and to_regclass('vyx.machines') is not null as is_migrated,
       exists (select from pg_catalog.pg_attribute a
                where a.attrelid = to_regclass('auth.users') and a.attname = 'encrypted_password') as has_sign_up;

-- stop_beyond_tiers --
-- After a downgrade the newest traders beyond the tier stop.
select vyx.stop_beyond_tiers_v1();

-- delete_user --
-- A user, and by cascade everything of theirs.
delete from auth.users u where u.id = %(user_id)s;

-- delete_calls --
-- What was counted of a user; no foreign key takes it along, since that table is unlogged.
delete from vyx.rate_limits r where r.user_id = %(user_id)s;
