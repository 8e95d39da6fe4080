-- flooding_traders --
-- Those of these traders that store a digest at the slot: their tier's signals of the day were stored before it, or the slot has a digest.
select s.trader_id
  from public.trader_state s
  left join public.accounts a on a.user_id = s.user_id
  join public.tiers t on t.tier = coalesce(a.tier, 'free')
 where s.trader_id = any (%(trader_ids)s::uuid[])
   and ((s.signal_day = vyx.market_day(%(slot)s) and s.signals_that_day >= t.signals_per_day and s.last_signal_at < %(slot)s)
        or exists (select from public.signal_digests d where d.trader_id = s.trader_id and d.slot = %(slot)s));

-- put_digests --
-- One row per trader for a slot; at the first of its day a trader event says so. Returns how many traders had their lease.
with given as materialized (
  select g.trader_id, g.epoch, g.matches, g.symbols, g.plan_hash, s.user_id, s.state, s.version
    from unnest(%(trader_ids)s::uuid[], %(epochs)s::bigint[], %(matches)s::int[], %(symbols)s::jsonb[], %(plan_hashes)s::text[])
         as g (trader_id, epoch, matches, symbols, plan_hash)
    join public.trader_state s on s.trader_id = g.trader_id and s.owner = %(boot_id)s and s.epoch = g.epoch
), stored as (
  insert into public.signal_digests (trader_id, slot, user_id, matches, symbols, plan_hash, epoch)
  select g.trader_id, %(slot)s, g.user_id, g.matches, array(select jsonb_array_elements_text(g.symbols)), g.plan_hash, g.epoch
    from given g order by g.trader_id
  on conflict do nothing
  returning trader_id
), begun as (
  update public.trader_state s set flooding_since = %(slot)s
    from stored d
   where s.trader_id = d.trader_id and (s.flooding_since is null or vyx.market_day(s.flooding_since) < vyx.market_day(%(slot)s))
  returning s.trader_id
), said as (
  insert into public.trader_events (trader_id, user_id, from_state, to_state, reason, version)
  select g.trader_id, g.user_id, g.state, g.state,
         format('flooding: it has stored %%s signals today, as many as the %%s tier keeps; until midnight UTC each slot stores one summary instead',
                t.signals_per_day, t.tier), g.version
    from begun b join given g using (trader_id)
    left join public.accounts a on a.user_id = g.user_id
    join public.tiers t on t.tier = coalesce(a.tier, 'free')
   order by g.trader_id)
select count(*) from given;

-- digests_between --
-- At which slots a trader stored a digest, after one slot and through another, oldest first.
select d.slot, d.matches, d.symbols, d.plan_hash from public.signal_digests d
 where d.trader_id = %(trader_id)s and d.slot > %(after)s and d.slot <= %(through)s order by d.slot;

-- digests_at --
-- What these traders stored as digests at the slot.
select d.trader_id, d.matches, d.symbols, d.plan_hash from public.signal_digests d where d.trader_id = any (%(trader_ids)s::uuid[]) and d.slot = %(slot)s;

-- prune_digests --
-- So many old digests go.
delete from public.signal_digests d using (
  select o.trader_id, o.slot from public.signal_digests o where o.slot < %(before)s limit %(limit)s) old
 where d.trader_id = old.trader_id and d.slot = old.slot;
