-- What users, people in Studio and machines do to a trader's state. Refusals carry a code of ours:
--   VX404 no such trader · VX409 transition not allowed (detail: the state) · VX403 quota (detail: json quota, limit, used, tier, next_tier) · VX503 the service is full · VXFEN fenced

-- active_traders: what counts against a quota: running, on the way there, or in error and about to retry by itself.
create function vyx.active_traders("user" uuid) returns bigint language sql stable set search_path = '' as $$
  select count(*) from public.trader_state s
   where s.user_id = "user" and (s.state in ('starting', 'running') or s.retry_at is not null)
$$;

-- check_quota: a user's own traders are counted, they are few; of all users' traders the number is kept (100,000 of them took 20 ms to
-- count, and a hundred starts come at once).
create function vyx.check_quota("user" uuid, max_active bigint) returns void language plpgsql set search_path = '' as $$
declare
  quota record;
  used bigint;
  has_many_changes boolean;
begin
  insert into public.accounts (user_id) values ("user") on conflict do nothing;
  -- the row lock makes two simultaneous starts of one user count one after the other
  select a.tier, t.max_running into quota from public.accounts a join public.tiers t using (tier) where a.user_id = "user" for update of a;
  used := vyx.active_traders("user");
  if used >= quota.max_running then
    raise exception 'the % tier runs at most % traders and % are active', quota.tier, quota.max_running, used
      using errcode = 'VX403', detail = json_build_object('quota', 'running_traders', 'limit', quota.max_running, 'used', used,
        'tier', quota.tier, 'next_tier', vyx.next_tier('running_traders', used));
  end if;
  if max_active is null then return; end if;
  select coalesce(sum(c.traders), 0), count(*) > 1000 into used, has_many_changes from vyx.trader_counts c;
  if has_many_changes then perform vyx.fold_trader_counts_v1(); end if;  -- no machine lives that would
  if used > max_active - 1000 then                  -- near the limit starts queue, far from it they do not
    perform pg_advisory_xact_lock(7004, 1);
    select coalesce(sum(c.traders), 0) into used from vyx.trader_counts c;
  end if;
  if used >= max_active then
    raise exception 'the service runs at most % traders and is full', max_active using errcode = 'VX503';
  end if;
end $$;

-- check_stored: whether a user may save one more trader. The row lock makes two simultaneous saves of one user count one after the other.
create function vyx.check_stored("user" uuid) returns void language plpgsql set search_path = '' as $$
declare
  quota record;
  used bigint;
begin
  insert into public.accounts (user_id) values ("user") on conflict do nothing;
  select a.tier, t.max_stored into quota from public.accounts a join public.tiers t using (tier) where a.user_id = "user" for update of a;
  select count(*) into used from public.traders t where t.user_id = "user";
  if used >= quota.max_stored then
    raise exception 'the % tier keeps at most % traders and % are saved', quota.tier, quota.max_stored, used
      using errcode = 'VX403', detail = json_build_object('quota', 'stored_traders', 'limit', quota.max_stored, 'used', used,
        'tier', quota.tier, 'next_tier', vyx.next_tier('stored_traders', used));
  end if;
end $$;

-- change_state_v1: the one way from state to state; refuses another version than expected.
create function vyx.change_state_v1(trader uuid, to_state public.trader_lifecycle, reason text, expected_version bigint default null, error text default null)
returns public.trader_state language plpgsql set search_path = '' as $$
declare changed public.trader_state;
begin
  update public.trader_state s set state = to_state, reason = change_state_v1.reason, last_error = coalesce(error, s.last_error)
   where s.trader_id = trader and (expected_version is null or s.version = expected_version)
  returning * into changed;
  if not found then
    if exists (select from public.trader_state s where s.trader_id = trader) then
      raise exception 'the trader has changed meanwhile' using errcode = 'VX409', detail = (select s.state from public.trader_state s where s.trader_id = trader);
    end if;
    raise exception 'there is no trader %', trader using errcode = 'VX404';
  end if;
  return changed;
end $$;

-- start_trader_v1: repeating it is harmless. max_active is the limit over all users; null leaves it unchecked.
create function vyx.start_trader_v1(trader uuid, max_active bigint default null) returns public.trader_state
language plpgsql set search_path = '' as $$
declare current public.trader_state;
begin
  select * into current from public.trader_state s where s.trader_id = trader for update;
  if not found then raise exception 'there is no trader %', trader using errcode = 'VX404'; end if;
  if current.state in ('starting', 'running') then return current; end if;
  if current.state = 'stopping' then
    raise exception 'a stopping trader cannot become starting' using errcode = 'VX409', detail = current.state;
  end if;
  if current.retry_at is null then perform vyx.check_quota(current.user_id, max_active); end if;
  return vyx.change_state_v1(trader, 'starting', 'start');
end $$;

-- is_held: whether this owner is a machine that lives. What a dead one owned is free.
create function vyx.is_held(owner bigint) returns boolean language sql stable set search_path = '' as $$
  select exists (select from vyx.machines m where m.boot_id = is_held.owner and m.state <> 'dead')
$$;

-- stop_trader_v1: repeating it is harmless; a trader nobody holds is stopped at once.
create function vyx.stop_trader_v1(trader uuid, reason text default 'stop') returns public.trader_state
language plpgsql set search_path = '' as $$
declare current public.trader_state;
begin
  select * into current from public.trader_state s where s.trader_id = trader for update;
  if not found then raise exception 'there is no trader %', trader using errcode = 'VX404'; end if;
  if current.state in ('stopped', 'stopping') then return current; end if;
  if current.state = 'error' then return vyx.change_state_v1(trader, 'stopped', reason); end if;
  current := vyx.change_state_v1(trader, 'stopping', reason);
  if not vyx.is_held(current.owner) then current := vyx.change_state_v1(trader, 'stopped', reason); end if;
  return current;
end $$;

-- start_traders_v1: several traders of one user in one call, each with an outcome of its own: no code, or the refusal's. Null ids are all
-- that do not run. In the order of their ids, as everybody who locks several of them.
create function vyx.start_traders_v1("user" uuid, ids uuid[], max_active bigint default null)
returns table (trader uuid, code text, message text, detail text) language plpgsql set search_path = '' as $$
begin
  for trader in
    select s.trader_id from public.trader_state s
     where s.user_id = "user" and case when ids is null then s.state in ('stopped', 'error') else s.trader_id = any (ids) end order by s.trader_id
  loop
    code := null; message := null; detail := null;
    begin
      perform vyx.start_trader_v1(trader, max_active);
    exception when others then
      get stacked diagnostics code = returned_sqlstate, message = message_text, detail = pg_exception_detail;
      if code not like 'VX%' then raise; end if;
    end;
    return next;
  end loop;
end $$;

-- stop_traders_v1: the same for stopping; null ids are all that run or are about to.
create function vyx.stop_traders_v1("user" uuid, ids uuid[]) returns table (trader uuid) language plpgsql set search_path = '' as $$
begin
  for trader in
    select s.trader_id from public.trader_state s
     where s.user_id = "user" and s.state <> 'stopped' and (ids is null or s.trader_id = any (ids)) order by s.trader_id
  loop
    perform vyx.stop_trader_v1(trader);
    return next;
  end loop;
end $$;

create function public.start_trader(trader uuid) returns public.trader_state language sql set search_path = '' as $$
  select vyx.start_trader_v1(trader)
$$;
comment on function public.start_trader is 'Start a trader by hand: select start_trader(''…uuid…''). The owner''s tier is checked.';
create function public.stop_trader(trader uuid) returns public.trader_state language sql set search_path = '' as $$
  select vyx.stop_trader_v1(trader)
$$;
comment on function public.stop_trader is 'Stop a trader by hand: select stop_trader(''…uuid…'').';
revoke all on function public.start_trader, public.stop_trader from public, anon, authenticated;
grant execute on function public.start_trader, public.stop_trader to service_role;
