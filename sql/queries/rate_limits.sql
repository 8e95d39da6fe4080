-- allow_call --
-- Count one call of a user, or refuse it and say how long to wait.
select allowed, remaining, retry_after, reset_after
  from vyx.allow_call_v1(%(user_id)s, %(kind)s, %(max_calls)s, %(window)s, %(now)s);

-- calls_left --
-- The same without counting a call.
select remaining, reset_after from vyx.calls_left_v1(%(user_id)s, %(kind)s, %(max_calls)s, %(window)s, %(now)s);
