-- the_market --
-- The market this database holds; no row before the first start.
select source, speed, anchor_market_at, anchor_wall_at, ends_at, vyx.market_time(), vyx.newest_slot(), clock_timestamp(), chosen_by_auto from vyx.markets;

-- put_market --
-- Name the market of this database; the first process to do so decides.
insert into vyx.markets (source, chosen_by_auto, speed, anchor_market_at, anchor_wall_at, ends_at)
values (%(source)s, %(chosen_by_auto)s, %(speed)s, %(anchor_market_at)s, %(anchor_wall_at)s, %(ends_at)s)
on conflict do nothing;

-- anchor_market --
-- A file market goes on where it stood, at this speed.
update vyx.markets set speed = %(speed)s, anchor_market_at = coalesce(vyx.newest_slot(), vyx.market_time()), anchor_wall_at = clock_timestamp();
