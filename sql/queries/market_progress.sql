-- put_progress --
-- What the feeder is doing.
insert into vyx.market_progress as p (stage, reason, history_done, history_total)
values (%(stage)s, %(reason)s, %(done)s, %(total)s)
on conflict (only_one) do update
   set stage = excluded.stage, reason = excluded.reason, history_done = excluded.history_done, history_total = excluded.history_total,
       changed_at = clock_timestamp();
