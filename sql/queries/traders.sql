-- check_stored --
-- Whether the user may save one more trader; part of the transaction that saves it. Refuses with VX403.
select vyx.check_stored(%(user_id)s);

-- insert_trader --
-- A new trader, born stopped.
insert into public.traders (user_id, name, description, filter, symbols, frequency, plan, plan_hash, plan_summary)
values (%(user_id)s, %(name)s, %(description)s, %(filter)s, %(symbols)s, %(frequency)s, %(plan)s, %(plan_hash)s, %(plan_summary)s)
returning id;

-- update_trader --
-- Change what is given (null: leave as it is; symbols only when set_symbols, since null there means every pair).
update public.traders t
   set name         = coalesce(%(name)s, t.name),
       description  = coalesce(%(description)s, t.description),
       filter       = coalesce(%(filter)s, t.filter),
       plan         = coalesce(%(plan)s, t.plan),
       plan_hash    = coalesce(%(plan_hash)s, t.plan_hash),
       plan_summary = coalesce(%(plan_summary)s, t.plan_summary),
       frequency    = coalesce(%(frequency)s, t.frequency),
       symbols      = case when %(set_symbols)s then %(symbols)s::text[] else t.symbols end
 where t.id = %(trader_id)s and t.user_id = %(user_id)s
returning t.id;

-- delete_trader --
-- Remove a trader in any state, with its signals and history; a machine that holds it notices at its next slot.
delete from public.traders t where t.id = %(trader_id)s and t.user_id = %(user_id)s returning t.id;

-- find_trader --
-- One trader with its run state, whoever owns it.
select t.id, t.user_id, t.name, t.description, t.filter, t.symbols, t.frequency, t.plan_summary, t.revision, t.created_at, t.updated_at,
       s.state::text as state, s.version, s.last_error, vyx.is_held(s.owner) as is_owned, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason
  from public.traders t join public.trader_state s on s.trader_id = t.id cross join vyx.market_facts f
 where t.id = %(trader_id)s;

-- list_traders --
-- A page of a user's traders, newest first, after (before_at, before_id) when given: at most so many rows, and about so many bytes.
select p.id, p.user_id, p.name, p.description, p.filter, p.symbols, p.frequency, p.plan_summary, p.revision, p.created_at, p.updated_at,
       s.state::text as state, s.version, s.last_error, vyx.is_held(s.owner) as is_owned, nullif(greatest(vyx.screened_through(s), vyx.before_first_slot()), 'epoch') as screened_through,
       f.market_at, f.ends_at, f.speed, f.newest_closed, f.newest_closed_is_outage, f.outage_reason, f.oldest_open,
       f.first_slot, f.stage, f.stage_reason, p.has_next
  from (select l.*, lead(true) over newest is not null as has_next, sum(l.bytes) over newest - l.bytes as bytes_before
          from (select t.id, t.user_id, t.name, t.description, case when %(with_filter)s then t.filter else '' end as filter, t.symbols,
                       t.frequency, t.plan_summary, t.revision, t.created_at, t.updated_at,
                       500 + length(t.description) + case when %(with_filter)s then octet_length(t.filter) else 0 end
                         + 12 * coalesce(cardinality(t.symbols), 0) + pg_column_size(t.plan_summary) as bytes
                  from public.traders t
                 where t.user_id = %(user_id)s
                   and (%(before_at)s::timestamptz is null or t.created_at < %(before_at)s or (t.created_at = %(before_at)s and t.id > %(before_id)s::uuid))
                 order by t.created_at desc, t.id
                 limit %(limit)s + 1) l
        window newest as (order by l.created_at desc, l.id)) p
  join public.trader_state s on s.trader_id = p.id cross join vyx.market_facts f
 where p.bytes_before < %(bytes_max)s
 order by p.created_at desc, p.id
 limit %(limit)s;

-- plans --
-- What to screen for these traders.
select t.id, t.user_id, t.plan::text, t.plan_hash, t.symbols, t.frequency, t.filter, t.revision,
       exists (select from public.trader_versions v where v.trader_id = t.id and v.number = t.revision and v.screened_after is null) as is_new
  from public.traders t where t.id = any (%(trader_ids)s::uuid[]);

-- store_recompiled --
-- A plan of an older version, compiled again; no row when its user saved another filter meanwhile. The revision rises, so that its
-- machine loads it like any change.
update public.traders t set plan = %(plan)s::jsonb, plan_hash = %(plan_hash)s, plan_summary = %(plan_summary)s
 where t.id = %(trader_id)s and t.revision = %(revision)s
returning t.id;

-- explained_trader --
-- What decides about a match of this trader, whoever owns it.
select t.user_id, t.filter, t.plan::text as plan, t.plan_hash, t.symbols, t.frequency, s.state::text as state, s.last_error,
       vyx.screened_through(s) as screened_through
  from public.traders t join public.trader_state s on s.trader_id = t.id
 where t.id = %(trader_id)s;

-- has_traders --
-- Is this database anybody's already?
select exists (select from public.traders);
