-- list_signals --
-- A page of a user's signals, oldest first, after (after_at, after_id) when given: at most so many rows, and about so many bytes.
select p.id, p.trader_id, p.symbol, p.timeframe, p.triggered_at, p.price, p.shown, p.screened_at, p.created_at, p.late, p.forming, p.has_next
  from (select l.*, lead(true) over pages is not null as has_next, sum(l.bytes) over pages - l.bytes as bytes_before
          from (select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at,
                       s.late, s.forming, 300 + pg_column_size(s.shown) as bytes
                  from public.signals s
                 where s.user_id = %(user_id)s
                   and (%(trader_id)s::uuid is null or s.trader_id = %(trader_id)s)
                   and (%(symbol)s::text is null or s.symbol = %(symbol)s)
                   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
                   and (%(from)s::timestamptz is null or s.triggered_at >= %(from)s)
                   and (%(until)s::timestamptz is null or s.triggered_at <= %(until)s)
                   and (%(after_at)s::timestamptz is null or (s.created_at, s.id) > (%(after_at)s, %(after_id)s::bigint))
                 order by s.created_at, s.id
                 limit %(limit)s + 1) l
        window pages as (order by l.created_at, l.id)) p
 where p.bytes_before < %(bytes_max)s
 order by p.created_at, p.id
 limit %(limit)s;

-- list_newest_signals --
-- The same, newest first.
select p.id, p.trader_id, p.symbol, p.timeframe, p.triggered_at, p.price, p.shown, p.screened_at, p.created_at, p.late, p.forming, p.has_next
  from (select l.*, lead(true) over pages is not null as has_next, sum(l.bytes) over pages - l.bytes as bytes_before
          from (select s.id, s.trader_id, s.symbol, s.timeframe::text as timeframe, s.triggered_at, s.price, s.shown, s.screened_at, s.created_at,
                       s.late, s.forming, 300 + pg_column_size(s.shown) as bytes
                  from public.signals s
                 where s.user_id = %(user_id)s
                   and (%(trader_id)s::uuid is null or s.trader_id = %(trader_id)s)
                   and (%(symbol)s::text is null or s.symbol = %(symbol)s)
                   and (%(since)s::timestamptz is null or s.created_at >= %(since)s)
                   and (%(from)s::timestamptz is null or s.triggered_at >= %(from)s)
                   and (%(until)s::timestamptz is null or s.triggered_at <= %(until)s)
                   and (%(after_at)s::timestamptz is null or (s.created_at, s.id) < (%(after_at)s, %(after_id)s::bigint))
                 order by s.created_at desc, s.id desc
                 limit %(limit)s + 1) l
        window pages as (order by l.created_at desc, l.id desc)) p
 where p.bytes_before < %(bytes_max)s
 order by p.created_at desc, p.id desc
 limit %(limit)s;
