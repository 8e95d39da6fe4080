-- insert_destination --
-- A new destination with its sealed secrets.
with made as (
  insert into public.destinations (id, user_id, name, kind, hint, events, trader_ids, preset, template, quiet_hours, digest, rate, expires_after_s)
  values (%(id)s, %(user_id)s, %(name)s, %(kind)s, %(hint)s, %(events)s, %(trader_ids)s, %(preset)s, %(template)s, %(quiet_hours)s, %(digest)s, %(rate)s,
          %(expires_after_s)s)
  returning id),
sealed as (
  insert into vyx.destination_secrets (destination_id, key_id, sealed) select m.id, %(key_id)s, %(sealed)s from made m returning destination_id)
select s.destination_id from sealed s;

-- set_service_key --
-- Destinations with the same key share a limit of their service.
update vyx.destination_queues q set service_key = %(service_key)s where q.destination_id = %(id)s;

-- count_destinations --
-- How many a user has.
select count(*) from public.destinations n where n.user_id = %(user_id)s;

-- list_destinations --
-- A user's destinations, newest first.
select n.id, n.user_id, n.name, n.kind, n.hint, n.events, n.trader_ids, n.preset, n.template, n.quiet_hours, n.digest, n.rate, n.expires_after_s,
       n.enabled, n.disabled_reason, n.created_at, n.updated_at, q.failing_since, q.held_until, q.hold_reason
  from public.destinations n join vyx.destination_queues q on q.destination_id = n.id
 where n.user_id = %(user_id)s and (%(before_at)s::timestamptz is null or (n.created_at, n.id) < (%(before_at)s, %(before_id)s))
 order by n.created_at desc, n.id desc limit %(limit)s;

-- find_destination --
-- One destination, whoever's it is.
select n.id, n.user_id, n.name, n.kind, n.hint, n.events, n.trader_ids, n.preset, n.template, n.quiet_hours, n.digest, n.rate, n.expires_after_s,
       n.enabled, n.disabled_reason, n.created_at, n.updated_at, q.failing_since, q.held_until, q.hold_reason
  from public.destinations n join vyx.destination_queues q on q.destination_id = n.id where n.id = %(id)s;

-- delivery_figures --
-- A destination's last 30 days: how many ended how, how long an answer took, and the last failure.
select count(*) filter (where d.state = 'sent') as sent, count(*) filter (where d.state = 'failed') as failed,
       count(*) filter (where d.state = 'expired') as expired, count(*) filter (where d.state = 'pending') as pending,
       percentile_cont(0.5) within group (order by extract(epoch from d.answered_at - d.queued_at) * 1000) filter (where d.state = 'sent') as p50_ms,
       percentile_cont(0.99) within group (order by extract(epoch from d.answered_at - d.queued_at) * 1000) filter (where d.state = 'sent') as p99_ms,
       max(d.answered_at) filter (where d.state <> 'sent') as last_failure_at,
       (array_agg(d.answer order by d.answered_at desc) filter (where d.state <> 'sent' and d.answer is not null))[1] as last_failure
  from (select * from vyx.deliveries x where x.destination_id = %(id)s order by x.queued_at desc limit 10000) d;

-- find_secrets --
-- What seals hide, with the key's name; locked for a change.
select k.key_id, k.sealed from vyx.destination_secrets k where k.destination_id = %(id)s for update;

-- change_destination --
-- Replace what a person may change.
update public.destinations n
   set name = %(name)s, hint = %(hint)s, events = %(events)s, trader_ids = %(trader_ids)s, preset = %(preset)s, template = %(template)s,
       quiet_hours = %(quiet_hours)s, digest = %(digest)s, rate = %(rate)s, expires_after_s = %(expires_after_s)s, enabled = %(enabled)s
 where n.id = %(id)s;

-- change_secrets --
-- Seal anew.
update vyx.destination_secrets k set key_id = %(key_id)s, sealed = %(sealed)s where k.destination_id = %(id)s;

-- delete_destination --
-- With its deliveries.
delete from public.destinations n where n.id = %(id)s;

-- sealed_otherwise --
-- Secrets that another key than the current one has sealed.
select k.destination_id, k.key_id, k.sealed from vyx.destination_secrets k where k.key_id <> %(key_id)s and k.destination_id > %(after)s
 order by k.destination_id limit %(limit)s for update;

-- own_traders --
-- Which of these traders are the user's.
select t.id from public.traders t where t.user_id = %(user_id)s and t.id = any (%(trader_ids)s);
