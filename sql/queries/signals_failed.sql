-- put_failed_signal --
-- A match that the database refused as a signal; once per (trader, symbol, bar). No row when its trader is gone.
insert into public.signals_failed (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, forming, cooldown_s, reason)
select t.id, t.user_id, %(symbol)s, %(timeframe)s, %(slot)s, %(price)s, %(shown)s, %(plan_hash)s, %(epoch)s, %(forming)s, %(cooldown_s)s, %(reason)s
  from public.traders t where t.id = %(trader_id)s
on conflict (trader_id, symbol, triggered_at) do update set reason = excluded.reason, failed_at = clock_timestamp();

-- state_failed_signals --
-- The trader's status and an event say that signals were refused; its state stays.
with stated as (
  update public.trader_state s set reason = 'signals refused', last_error = %(message)s
   where s.trader_id = %(trader_id)s and s.state in ('starting', 'running', 'stopping')
  returning s.trader_id, s.user_id, s.state, s.version)
insert into public.trader_events (trader_id, user_id, from_state, to_state, reason, version)
select trader_id, user_id, state, state, 'signals refused', version from stated;

-- list_failed_signals --
-- Refused signals of a span of market time, or one by its id; oldest first.
select f.failed_id, f.trader_id from public.signals_failed f
 where (%(failed_id)s::bigint is null or f.failed_id = %(failed_id)s)
   and f.triggered_at >= coalesce(%(first)s::timestamptz, '-infinity') and f.triggered_at <= coalesce(%(last)s::timestamptz, 'infinity')
 order by f.triggered_at, f.failed_id;

-- begin_redelivery --
-- Say for this transaction who counts signals: not the machine that holds the trader.
select set_config('vyx.boot', 'redelivery', true);

-- redeliver_failed_signal --
-- Insert a refused signal by the rules that hold for any (once per bar, cooldown), and forget the refusal.
with failed as (
  delete from public.signals_failed f where f.failed_id = %(failed_id)s returning f.*
), inserted as (
  insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, forming, late, screened_at)
  select f.trader_id, f.user_id, f.symbol, f.timeframe::vyx.timeframe, f.triggered_at, f.price, f.shown::jsonb, f.plan_hash, f.epoch, f.forming, true, f.failed_at
    from failed f
   where f.cooldown_s is null
      or not exists (select from public.signals earlier
                      where earlier.trader_id = f.trader_id and earlier.symbol = f.symbol and earlier.triggered_at < f.triggered_at
                        and earlier.triggered_at > f.triggered_at - make_interval(secs => f.cooldown_s))
  on conflict do nothing
  returning id, trader_id, user_id, symbol, timeframe, triggered_at
), queued as (  -- as for any new signal; one that is too late expires
  insert into vyx.deliveries (source_id, destination_id, user_id, trader_id, symbol, triggered_at, expires_at)
  select i.id, d.id, i.user_id, i.trader_id, i.symbol, i.triggered_at,
         clock_timestamp() + coalesce(make_interval(secs => d.expires_after_s), i.timeframe::text::interval)
         + make_interval(secs => coalesce((d.digest ->> 'every_s')::int, 0)) - vyx.wall_lateness(i.triggered_at)
    from inserted i
    join public.destinations d on d.user_id = i.user_id and d.enabled and 'signal' = any (d.events)
     and (d.trader_ids is null or i.trader_id = any (d.trader_ids))
   order by i.id, d.id)
update public.trader_state s set signal_count = s.signal_count + 1, last_signal_at = greatest(s.last_signal_at, i.triggered_at)
  from inserted i where s.trader_id = i.trader_id;

-- restate_failed_signal --
-- Refused again, and why.
update public.signals_failed f set reason = %(reason)s where f.failed_id = %(failed_id)s;

-- clear_failed_signals --
-- A trader of which nothing is refused any more has no such error.
update public.trader_state s set reason = null, last_error = null
 where s.trader_id = %(trader_id)s and s.reason = 'signals refused'
   and not exists (select from public.signals_failed f where f.trader_id = s.trader_id);

-- failed_signals_between --
-- Which signals of a trader were refused, after one slot and through another.
select f.symbol, f.triggered_at from public.signals_failed f
 where f.trader_id = %(trader_id)s and f.triggered_at > %(after)s and f.triggered_at <= %(through)s;

-- failed_symbols_of --
-- Of which pairs signals of these traders were refused.
select distinct f.trader_id, f.symbol from public.signals_failed f where f.trader_id = any (%(trader_ids)s::uuid[]);

-- prune_failed_signals --
-- So many refused signals that nobody redelivered in all the time signals are kept.
delete from public.signals_failed f using (
  select o.failed_id from public.signals_failed o where o.failed_at < %(before)s limit %(limit)s) old
 where f.failed_id = old.failed_id;
