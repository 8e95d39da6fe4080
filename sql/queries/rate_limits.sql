-- allow_call --
-- Count one call of a user, or refuse it and say how long to wait; and whose trader the call is about, in the same round trip.
select allowed, remaining, retry_after, reset_after,
       (select s.user_id from public.trader_state s where s.trader_id = %(trader_id)s::uuid) as owner_id
  from vyx.allow_call_v1(%(user_id)s, %(kind)s, %(max_calls)s, %(window)s, %(now)s);

-- calls_left --
-- The same without counting a call.
select remaining, reset_after from vyx.calls_left_v1(%(user_id)s, %(kind)s, %(max_calls)s, %(window)s, %(now)s);

-- prune_calls --
-- So many users' calls of a kind that ended long ago.
delete from vyx.rate_limits r using (
  select o.user_id, o.kind from vyx.rate_limits o where o.calls[cardinality(o.calls)] < %(before)s limit %(limit)s) old
 where r.user_id = old.user_id and r.kind = old.kind and r.calls[cardinality(r.calls)] < %(before)s;
