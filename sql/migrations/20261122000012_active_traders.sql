-- The limit over all users without counting all of them at every start.
alter table vyx.machine_heartbeats add column active bigint not null default 0;
comment on column vyx.machine_heartbeats.active is 'How many traders were starting or running, over all machines, at this beat.';

-- beat_v1: one round trip per machine and second: renew, and everything fair shares need. Counted in the table: sums of what
-- machines last reported are stale and left traders unclaimed for 1-10 s.
create or replace function vyx.beat_v1(boot bigint, owned_now int, out ok boolean, out state vyx.machine_state, out alive bigint, out total bigint, out unowned bigint, out mine bigint, out newest_closed timestamptz)
language plpgsql set search_path = '' as $$
begin
  select count(*) into alive from vyx.machines m where m.state = 'alive';
  select count(*), count(*) filter (where s.owner is null), count(*) filter (where s.owner = boot) into total, unowned, mine from public.trader_state s where s.state in ('starting', 'running');
  update vyx.machine_heartbeats h set heartbeat_at = clock_timestamp(), owned = owned_now, active = total
    from vyx.machines m where h.boot_id = boot and m.boot_id = boot and m.state <> 'dead' returning m.state into state;
  ok := found;
  newest_closed := vyx.newest_closed_slot();
end $$;

-- check_quota: a user's own traders are counted, they are few. All users' are counted only near the limit; far from it the count of
-- a beat of the last seconds will do (100,000 active traders: 20 ms a start otherwise, and a hundred starts come at once).
create or replace function vyx.check_quota("user" uuid, max_active bigint) returns void language plpgsql set search_path = '' as $$
declare
  quota record;
  used bigint;
begin
  insert into public.accounts (user_id) values ("user") on conflict do nothing;
  -- the row lock makes two simultaneous starts of one user count one after the other
  select a.tier, t.max_running into quota from public.accounts a join public.tiers t using (tier) where a.user_id = "user" for update of a;
  used := vyx.active_traders("user");
  if used >= quota.max_running then
    raise exception 'the % tier runs at most % traders and % are active', quota.tier, quota.max_running, used
      using errcode = 'VX403', detail = json_build_object('limit', quota.max_running, 'used', used, 'tier', quota.tier);
  end if;
  if max_active is null then return; end if;
  select max(h.active) into used from vyx.machine_heartbeats h where h.heartbeat_at > clock_timestamp() - interval '3 s';
  if used < max_active - 10000 then return; end if;  -- more than can be started within 3 s
  select count(*) into used from public.trader_state s where s.state in ('starting', 'running');
  if used > max_active - 1000 then                  -- near the limit starts queue, far from it they do not
    perform pg_advisory_xact_lock(7004, 1);
    select count(*) into used from public.trader_state s where s.state in ('starting', 'running');
  end if;
  if used >= max_active then
    raise exception 'the service runs at most % traders and is full', max_active
      using errcode = 'VX403', detail = json_build_object('limit', max_active, 'used', used, 'tier', quota.tier);
  end if;
end $$;
