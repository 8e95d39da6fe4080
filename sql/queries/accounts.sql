-- user_exists --
-- Whether a token's subject is a user of this database.
select exists (select from auth.users u where u.id = %(user_id)s);

-- find_account --
-- Tier, limit and use of one user; a user without a row is on the free tier.
select coalesce(a.tier, 'free') as tier, t.max_running, vyx.active_traders(%(user_id)s) as running
  from (values (%(user_id)s::uuid)) u (user_id)
  left join public.accounts a using (user_id)
  join public.tiers t on t.tier = coalesce(a.tier, 'free');

-- full_quota --
-- The quota that starting this trader would break, if it would; no row when there is room or the trader counts already.
select q.tier, q.max_running as "limit", q.used
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
