-- list_signals --
-- A page of a user's signals, oldest first, after (after_at, after_id) when given.
select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at, s.late, s.forming
  from public.signals s
 where s.user_id = %(user_id)s
   and s.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
   and (s.created_at, s.id) > (coalesce(%(after_at)s::timestamptz, '-infinity'), %(after_id)s::bigint)
 order by s.created_at, s.id
 limit %(limit)s;

-- list_signals_of_trader --
-- The same for one trader.
select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at, s.late, s.forming
  from public.signals s
 where s.user_id = %(user_id)s and s.trader_id = %(trader_id)s
   and s.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
   and (s.created_at, s.id) > (coalesce(%(after_at)s::timestamptz, '-infinity'), %(after_id)s::bigint)
 order by s.created_at, s.id
 limit %(limit)s;
