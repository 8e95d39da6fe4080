-- ready_destinations --
-- Destinations with something due, by user turns: every user's first before anyone's second. Their queues are locked; another
-- sender's are passed over. The recursion reads one index entry per destination that has anything pending, however much it has.
with recursive heads as (
  (select d.destination_id, d.next_attempt_at from vyx.deliveries d where d.state = 'pending' order by d.destination_id, d.next_attempt_at limit 1)
  union all
  (select n.destination_id, n.next_attempt_at
     from heads h
    cross join lateral (select d.destination_id, d.next_attempt_at from vyx.deliveries d
                         where d.state = 'pending' and d.destination_id > h.destination_id
                         order by d.destination_id, d.next_attempt_at limit 1) n)),
due as (
  select h.destination_id, h.next_attempt_at,
         row_number() over (partition by q.user_id order by h.next_attempt_at, h.destination_id)
         + coalesce((%(users_in_flight)s::jsonb ->> q.user_id::text)::int, 0) as turn
    from heads h join vyx.destination_queues q using (destination_id)
   where h.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
     and q.held_until <= coalesce(%(now)s::timestamptz, clock_timestamp())
     and q.destination_id <> all (%(busy)s::uuid[])),
chosen as (select c.destination_id, c.turn from due c order by c.turn, c.next_attempt_at limit %(limit)s)
select q.destination_id, q.user_id, n.kind, n.enabled, n.quiet_hours, n.digest, n.rate, q.last_digest_at, q.paced_until, q.failures, q.service_key,
       coalesce(%(now)s::timestamptz, clock_timestamp()) as now, head.queued_at as first_signal_at,
       (select count(*)::int from (select from vyx.deliveries d
          where d.destination_id = q.destination_id and d.state = 'pending' and (n.digest is null or d.event <> 'signal') and d.event <> 'test'
            and d.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) limit %(count_max)s) d) as due_count,
       exists (select from vyx.deliveries u where u.destination_id = q.destination_id and u.state = 'expired' and u.digest_id is null
                  and u.event = 'signal') as has_untold
  from chosen c
  join vyx.destination_queues q using (destination_id)
  join public.destinations n on n.id = q.destination_id
  left join lateral (select d.queued_at from vyx.deliveries d
                      where n.digest is not null and d.destination_id = q.destination_id and d.state = 'pending' and d.event = 'signal'
                        and d.lease_token is null and d.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
                      order by d.next_attempt_at limit 1) head on true
 order by c.turn
   for update of q skip locked;

-- service_paces --
-- The shared limits of these services, locked in one order.
select p.service_key, p.paced_until from vyx.service_paces p where p.service_key = any (%(service_keys)s) order by p.service_key for update;

-- put_service_paces --
-- Services seen for the first time.
insert into vyx.service_paces (service_key) select unnest(%(service_keys)s::text[]) on conflict do nothing;

-- move_service_paces --
-- What was just taken counts against the services' limits.
update vyx.service_paces p set paced_until = m.paced_until
  from unnest(%(service_keys)s::text[], %(paced_until)s::timestamptz[]) as m (service_key, paced_until) where p.service_key = m.service_key;

-- move_queues --
-- What was just taken counts against the destinations' limits; a hold moves all of a destination at once.
update vyx.destination_queues q set paced_until = m.paced_until, held_until = greatest(q.held_until, m.held_until),
       hold_reason = case when m.held_until is null then q.hold_reason else m.reason end
  from unnest(%(destination_ids)s::uuid[], %(paced_until)s::timestamptz[], %(held_until)s::timestamptz[], %(reasons)s::text[])
       as m (destination_id, paced_until, held_until, reason)
 where q.destination_id = m.destination_id;

-- postpone_signals --
-- Signals that wait for their digest.
with waiting as (
  select d.source_id, d.destination_id, p.until
    from unnest(%(destination_ids)s::uuid[], %(until)s::timestamptz[]) as p (destination_id, until)
   cross join lateral (select x.source_id, x.destination_id from vyx.deliveries x
                        where x.destination_id = p.destination_id and x.state = 'pending' and x.event = 'signal' and x.lease_token is null
                          and x.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) limit 1000 for update skip locked) d)
update vyx.deliveries d set next_attempt_at = w.until from waiting w where d.source_id = w.source_id and d.destination_id = w.destination_id;

-- gather_digests --
-- One new delivery per destination that tells of its waiting signals (where it digests) and of those that expired untold.
with wanted as materialized (
  select g.destination_id, g.waiting_too, nextval('vyx.notice_id') as digest_id
    from unnest(%(destination_ids)s::uuid[], %(waiting_too)s::boolean[]) as g (destination_id, waiting_too)),
told as (
  select d.source_id, d.destination_id, w.digest_id from wanted w
   cross join lateral (select x.source_id, x.destination_id from vyx.deliveries x
                        where w.waiting_too and x.destination_id = w.destination_id and x.state = 'pending' and x.event = 'signal'
                          and x.lease_token is null and x.expires_at > coalesce(%(now)s::timestamptz, clock_timestamp())
                        order by x.next_attempt_at limit 500 for update skip locked) d
  union all
  select d.source_id, d.destination_id, w.digest_id from wanted w
   cross join lateral (select x.source_id, x.destination_id from vyx.deliveries x
                        where x.destination_id = w.destination_id and x.state = 'expired' and x.digest_id is null and x.event = 'signal'
                        limit 500 for update skip locked) d),
marked as (
  update vyx.deliveries d set digest_id = t.digest_id, state = case when d.state = 'pending' then 'digested' else d.state end,
         changed_at = clock_timestamp()
    from told t where d.source_id = t.source_id and d.destination_id = t.destination_id
  returning d.destination_id, d.digest_id, d.user_id),
queued as (
  insert into vyx.deliveries (source_id, destination_id, event, user_id, expires_at, next_attempt_at)
  select m.digest_id, m.destination_id, 'digest', m.user_id, clock_timestamp() + interval '1 day', coalesce(%(now)s::timestamptz, clock_timestamp())
    from marked m group by m.digest_id, m.destination_id, m.user_id
  returning destination_id)
update vyx.destination_queues q set last_digest_at = coalesce(%(now)s::timestamptz, clock_timestamp()) from queued x where q.destination_id = x.destination_id;

-- take_due --
-- What is due of these destinations, locked; of those that digest, only what is no signal.
select d.source_id, d.destination_id
  from unnest(%(destination_ids)s::uuid[], %(counts)s::int[], %(signals_too)s::boolean[]) as w (destination_id, count, signals_too)
 cross join lateral (select x.source_id, x.destination_id from vyx.deliveries x
                      where x.destination_id = w.destination_id and x.state = 'pending' and (w.signals_too or x.event <> 'signal')
                        and x.event <> 'test' and x.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
                      order by x.next_attempt_at limit w.count for update skip locked) d;

-- take_tests --
-- Tests go past every hold: somebody waits for the answer.
select x.source_id, x.destination_id from vyx.deliveries x
 where x.state = 'pending' and x.event = 'test' and x.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
 order by x.source_id desc limit %(limit)s for update skip locked;

-- lease_deliveries --
-- Begin an attempt of what was taken: until the lease ends nobody else takes it. What is too late expires instead.
with taken as (
  select d.source_id, d.destination_id, d.expires_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) as is_late
    from unnest(%(source_ids)s::bigint[], %(destination_ids)s::uuid[]) as k (source_id, destination_id)
    join vyx.deliveries d using (source_id, destination_id)),
leased as (
  update vyx.deliveries d
     set state = case when t.is_late then 'expired' else d.state end, changed_at = case when t.is_late then clock_timestamp() else d.changed_at end,
         attempts = d.attempts + case when t.is_late then 0 else 1 end, lease_token = case when t.is_late then null else %(token)s::uuid end,
         next_attempt_at = case when t.is_late then d.next_attempt_at
                                else coalesce(%(now)s::timestamptz, clock_timestamp()) + make_interval(secs => %(lease_s)s) end
    from taken t
   where d.source_id = t.source_id and d.destination_id = t.destination_id
  returning d.*)
select c.source_id, c.destination_id, c.user_id, c.event, c.attempts, c.notice,
       extract(epoch from c.expires_at - coalesce(%(now)s::timestamptz, clock_timestamp()))::float8 as remaining_s,
       n.kind, n.preset, n.template, k.key_id, k.sealed, c.trader_id, t.name as trader_name,
       s.id as signal_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at, s.late, s.forming
  from leased c
  join public.destinations n on n.id = c.destination_id
  join vyx.destination_secrets k on k.destination_id = c.destination_id
  left join public.signals s on c.event = 'signal' and s.trader_id = c.trader_id and s.symbol = c.symbol and s.triggered_at = c.triggered_at
  left join public.traders t on t.id = c.trader_id
 where c.state = 'pending';

-- digest_signals --
-- What these digests tell of: the signals, oldest first, and whether each had expired.
select d.digest_id, d.state::text = 'expired' as is_late, d.trader_id, t.name as trader_name, s.id, s.symbol, s.timeframe::text as timeframe,
       s.triggered_at, s.price, s.shown, s.screened_at, s.created_at, s.late, s.forming
  from vyx.deliveries d
  join public.signals s on s.trader_id = d.trader_id and s.symbol = d.symbol and s.triggered_at = d.triggered_at
  join public.traders t on t.id = d.trader_id
 where d.digest_id = any (%(digest_ids)s::bigint[])
 order by d.digest_id, s.id;

-- record_receipts --
-- The answers; those whose lease has passed to another sender are refused. A retry that would come too late ends as expired.
with receipts as (
  select * from unnest(%(source_ids)s::bigint[], %(destination_ids)s::uuid[], %(tokens)s::uuid[], %(states)s::text[], %(delays_s)s::float8[],
                       %(statuses)s::int[], %(answers)s::text[], %(took_s)s::float8[], %(ago_s)s::float8[])
         as r (source_id, destination_id, token, state, delay_s, status, answer, took_s, ago_s))
update vyx.deliveries d
   set state = (case when r.state = 'pending' and clock_timestamp() + make_interval(secs => r.delay_s) >= d.expires_at then 'expired' else r.state end)
               ::public.delivery_state,
       next_attempt_at = clock_timestamp() + make_interval(secs => r.delay_s), lease_token = null, status = r.status, answer = r.answer,
       answered_at = clock_timestamp() - make_interval(secs => r.ago_s),
       sent_at = clock_timestamp() - make_interval(secs => r.ago_s + r.took_s), changed_at = clock_timestamp()
  from receipts r
 where d.source_id = r.source_id and d.destination_id = r.destination_id and d.lease_token = r.token
returning d.source_id, d.destination_id, d.state::text;

-- record_health --
-- How the destinations stand after these answers: working, failing (held the longer the more often in a row), or throttled.
-- Returns those that have failed for longer than allowed.
with answered as (
  select * from unnest(%(destination_ids)s::uuid[], %(are_ok)s::boolean[], %(holds_s)s::float8[]) as a (destination_id, is_ok, hold_s)),
locked as (
  select q.destination_id, q.failures + 1 as failures from vyx.destination_queues q
   where q.destination_id in (select a.destination_id from answered a) order by q.destination_id for update)
update vyx.destination_queues q
   set failures = case when a.is_ok then 0 when a.is_ok is null then q.failures else l.failures end,
       failing_since = case when a.is_ok then null when a.is_ok is null then q.failing_since else coalesce(q.failing_since, clock_timestamp()) end,
       held_until = case when a.is_ok and q.hold_reason = 'failing' then 'epoch'
                         when a.hold_s > 0 then greatest(q.held_until, clock_timestamp() + make_interval(secs => a.hold_s))
                         when not a.is_ok then greatest(q.held_until, clock_timestamp() + make_interval(secs =>
                              (%(failing_holds_s)s::float8[])[least(l.failures, cardinality(%(failing_holds_s)s::float8[]))]))
                         else q.held_until end,
       hold_reason = case when a.is_ok and q.hold_reason = 'failing' then null when a.hold_s > 0 then 'throttled' when not a.is_ok then 'failing'
                          else q.hold_reason end
  from answered a join locked l using (destination_id)
 where q.destination_id = a.destination_id
returning q.destination_id, coalesce(q.failing_since < clock_timestamp() - make_interval(days => %(failing_days_max)s), false) as is_beyond_hope;

-- disable_destination --
-- No more is sent there; the owner's other destinations are told. No row when it was disabled already.
with disabled as (
  update public.destinations n set enabled = false, disabled_reason = %(reason)s where n.id = %(destination_id)s and n.enabled
  returning n.id, n.user_id, n.name)
select vyx.queue_notice(d.user_id, 'destination_disabled',
         jsonb_build_object('destination_id', d.id, 'destination_name', d.name, 'reason', %(reason)s::text, 'at', clock_timestamp()),
         apart_from => d.id)
  from disabled d;

-- may_expire --
-- One sender at a time ends what is late; no other needs to.
select pg_try_advisory_xact_lock(7011, 1);

-- expire_deliveries --
-- What is due and can no longer arrive in time, of each destination the first few: what a sender takes it ends itself, this is for
-- destinations that are held. Not by an index on expires_at: that would cost every signal, and lateness is rare. Leased rows are
-- not due until their lease ends.
with recursive heads as (
  (select d.destination_id from vyx.deliveries d where d.state = 'pending' order by d.destination_id, d.next_attempt_at limit 1)
  union all
  (select n.destination_id
     from heads h
    cross join lateral (select d.destination_id from vyx.deliveries d where d.state = 'pending' and d.destination_id > h.destination_id
                         order by d.destination_id, d.next_attempt_at limit 1) n)),
late as materialized (
  select d.source_id, d.destination_id from heads h
   cross join lateral (select x.source_id, x.destination_id, x.expires_at from vyx.deliveries x
                        where x.destination_id = h.destination_id and x.state = 'pending'
                          and x.next_attempt_at <= coalesce(%(now)s::timestamptz, clock_timestamp())
                        order by x.next_attempt_at limit %(each)s) d
   where d.expires_at <= coalesce(%(now)s::timestamptz, clock_timestamp()) limit %(limit)s),
locked as (
  select d.source_id, d.destination_id from vyx.deliveries d join late using (source_id, destination_id) where d.state = 'pending'
     for update of d skip locked)
update vyx.deliveries d set state = 'expired', lease_token = null, changed_at = clock_timestamp(),
       answer = case when d.lease_token is not null then 'its sender died: the last attempt may have arrived' else d.answer end
  from locked where d.source_id = locked.source_id and d.destination_id = locked.destination_id;

-- queue_test --
-- A test message to one destination; it may be disabled.
insert into vyx.deliveries (source_id, destination_id, event, user_id, notice, expires_at)
select nextval('vyx.notice_id'), n.id, 'test', n.user_id, %(notice)s::jsonb, clock_timestamp() + interval '30 s'
  from public.destinations n where n.id = %(destination_id)s
returning source_id;

-- find_delivery --
-- One delivery with its receipt.
select d.source_id, d.destination_id, d.event, d.trader_id, d.state::text as state, d.attempts,
       case when d.state = 'pending' then greatest(d.next_attempt_at, q.held_until) end as next_attempt_at, d.queued_at, d.sent_at, d.answered_at,
       d.changed_at, d.status, d.answer, d.expires_at
  from vyx.deliveries d join vyx.destination_queues q using (destination_id)
 where d.source_id = %(source_id)s and d.destination_id = %(destination_id)s;

-- list_deliveries --
-- A user's deliveries, newest first.
select d.source_id, d.destination_id, d.event, d.trader_id, d.state::text as state, d.attempts,
       case when d.state = 'pending' then greatest(d.next_attempt_at, q.held_until) end as next_attempt_at, d.queued_at, d.sent_at, d.answered_at,
       d.changed_at, d.status, d.answer, d.expires_at
  from vyx.deliveries d join vyx.destination_queues q using (destination_id)
 where d.destination_id in (select n.id from public.destinations n where n.user_id = %(user_id)s)
   and (%(signal_id)s::bigint is null or d.source_id = %(signal_id)s)
   and (%(destination_id)s::uuid is null or d.destination_id = %(destination_id)s)
   and (%(state)s::public.delivery_state is null or d.state = %(state)s)
   and (%(before_at)s::timestamptz is null or (d.queued_at, d.source_id) < (%(before_at)s, %(before_id)s))
 order by d.queued_at desc, d.source_id desc
 limit %(limit)s;

-- changed_deliveries --
-- Receipts and ends of these users' deliveries since an instant, oldest first: for streams.
select d.user_id, d.source_id, d.destination_id, d.event, d.trader_id, d.state::text as state, d.attempts,
       case when d.state = 'pending' then d.next_attempt_at end as next_attempt_at, d.queued_at, d.sent_at, d.answered_at,
       d.changed_at, d.status, d.answer, d.expires_at
  from vyx.deliveries d
 where d.user_id = any (%(user_ids)s) and d.changed_at > %(since)s
 order by d.changed_at limit %(limit)s;

-- redrive_deliveries --
-- What ended without arriving is due again; a user's, or (null) everybody's.
select vyx.redrive_deliveries_v1(%(user_id)s, %(signal_id)s, %(destination_id)s, %(since)s, %(until)s, %(states)s::public.delivery_state[]);

-- prune_deliveries --
-- So many old receipts go.
with old as (
  select d.source_id, d.destination_id from vyx.deliveries d where d.queued_at < %(before)s and d.state <> 'pending' limit %(limit)s)
delete from vyx.deliveries d using old where d.source_id = old.source_id and d.destination_id = old.destination_id;

-- queue_troubles --
-- Tell users once of an outage or a lag, and once that it is over.
select vyx.queue_troubles_v1();
