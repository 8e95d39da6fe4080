-- find_hold --
-- Whether an address may ask, and the weight it has used in this clock minute. No row: nothing is known of it.
select greatest(extract(epoch from held_until - clock_timestamp()), 0)::float8 as remaining_s, held_s, status, reason,
       extract(epoch from weight_minute)::bigint / 60 as weight_minute, weight_used, held_until
  from vyx.exchange_holds where host = %(host)s and address = %(address)s;

-- put_hold --
-- The exchange told this address to wait. A refusal that follows an earlier one without an answer between them doubles the time.
insert into vyx.exchange_holds as h (host, address, held_until, held_s, status, reason)
values (%(host)s, %(address)s, clock_timestamp() + make_interval(secs => %(wait_s)s), %(wait_s)s, %(status)s, %(reason)s)
on conflict (host, address) do update
   set held_s = case when h.held_until is null then excluded.held_s
                     when h.held_until > clock_timestamp() then greatest(h.held_s, excluded.held_s)
                     else greatest(excluded.held_s, least(2 * h.held_s, %(longest_s)s)) end,
       held_until = case when h.held_until is null then excluded.held_until
                         when h.held_until > clock_timestamp() then greatest(h.held_until, excluded.held_until)
                         else clock_timestamp() + make_interval(secs => greatest(excluded.held_s, least(2 * h.held_s, %(longest_s)s))) end,
       status = excluded.status, reason = excluded.reason, changed_at = clock_timestamp()
returning extract(epoch from held_until - clock_timestamp())::float8;

-- end_hold --
-- The exchange answered.
update vyx.exchange_holds set held_until = null, held_s = 0, status = null, reason = null, changed_at = clock_timestamp()
 where host = %(host)s and address = %(address)s and held_until is not null;

-- put_weight --
-- What an address has used of this clock minute; never less than is on record for it.
insert into vyx.exchange_holds as h (host, address, weight_minute, weight_used)
values (%(host)s, %(address)s, to_timestamp(%(minute)s * 60), %(used)s)
on conflict (host, address) do update
   set weight_used = case when h.weight_minute = excluded.weight_minute then greatest(h.weight_used, excluded.weight_used) else excluded.weight_used end,
       weight_minute = excluded.weight_minute, changed_at = clock_timestamp();

-- put_address --
-- From where a machine would ask, as far as it knows.
insert into vyx.machine_addresses (boot_id, address) values (%(boot_id)s, %(address)s)
on conflict (boot_id) do update set address = excluded.address;

-- other_may_ask --
-- Whether a live machine at another address could feed the market instead.
select exists (
  select from vyx.machine_addresses a join vyx.machines m using (boot_id)
   where m.state = 'alive' and a.address <> %(address)s
     and not exists (select from vyx.exchange_holds h where h.host = %(host)s and h.address = a.address and h.held_until > clock_timestamp()));
