-- Edits by hand: refused with a sentence, or found within two bars and put right, with a row in vyx.incidents. docs/hand-edits.md has
-- a line per column, tests/coordination/test_hand_edits.py a test per line.

-- check_machine_edit: what only the machine itself may say, and only in a fenced transaction; and that the dead stay dead.
create function vyx.check_machine_edit() returns trigger language plpgsql set search_path = '' as $$
begin
  if old.state = 'dead' and new.state <> 'dead' then
    raise exception 'machine boot % is dead and stays dead; its process registers a new boot by itself', old.boot_id using errcode = 'VX422';
  end if;
  if (new.machine_id, new.started_at) is distinct from (old.machine_id, old.started_at) or new.state = old.state and new.ended_at is distinct from old.ended_at then
    raise exception 'machine_id, started_at and ended_at say what was; they cannot be edited' using errcode = 'VX422';
  end if;
  if new.screened_through is distinct from old.screened_through and current_setting('vyx.boot', true) is distinct from old.boot_id::text then
    raise exception 'screened_through is what machine boot % has screened; only the machine itself moves it', old.boot_id using errcode = 'VX422';
  end if;
  return new;
end $$;
create trigger a_machine_speaks_for_itself before update on vyx.machines for each row execute function vyx.check_machine_edit();

-- check_trader_edit: columns of the machinery. Named so that it fires before guard_trader_state, which sets some of them.
create function vyx.check_trader_edit() returns trigger language plpgsql set search_path = '' as $$
begin
  if (new.trader_id, new.user_id, new.epoch, new.lease_after, new.started_at, new.stopped_at, new.changed_at, new.error_count)
     is distinct from (old.trader_id, old.user_id, old.epoch, old.lease_after, old.started_at, old.stopped_at, old.changed_at, old.error_count) then
    raise exception 'trader_id, user_id, epoch, lease_after, started_at, stopped_at, changed_at and error_count follow from other columns; change state (start_trader, stop_trader) or owner instead'
      using errcode = 'VX422';
  end if;
  if (new.resume_after, new.in_step, new.signal_count, new.last_signal_at, new.signal_day, new.signals_that_day, new.flooding_since)
     is distinct from (old.resume_after, old.in_step, old.signal_count, old.last_signal_at, old.signal_day, old.signals_that_day, old.flooding_since)
     and current_setting('vyx.boot', true) is distinct from old.owner::text
     and (current_setting('vyx.boot', true) is distinct from 'redelivery' or (new.resume_after, new.in_step) is distinct from (old.resume_after, old.in_step)) then
    raise exception 'resume_after, in_step, signal_count, last_signal_at, signal_day, signals_that_day and flooding_since say what a machine has screened; only the machine that holds the trader moves them' using errcode = 'VX422';
  end if;
  if new.changed_in is distinct from old.changed_in then new.changed_in := pg_current_xact_id(); end if;
  return new;
end $$;
create trigger a_machine_moves_only_its_traders before update on public.trader_state for each row
  when ((new.trader_id, new.user_id, new.epoch, new.lease_after, new.started_at, new.stopped_at, new.changed_at, new.error_count,
         new.resume_after, new.in_step, new.signal_count, new.last_signal_at, new.signal_day, new.signals_that_day, new.flooding_since, new.changed_in)
        is distinct from
        (old.trader_id, old.user_id, old.epoch, old.lease_after, old.started_at, old.stopped_at, old.changed_at, old.error_count,
         old.resume_after, old.in_step, old.signal_count, old.last_signal_at, old.signal_day, old.signals_that_day, old.flooding_since, old.changed_in))
  execute function vyx.check_trader_edit();

-- check_state_row: the row belongs to its trader and goes only with it.
create function vyx.check_state_row() returns trigger language plpgsql set search_path = '' as $$
begin
  if pg_trigger_depth() = 1 and exists (select from public.traders t where t.id = old.trader_id) then
    raise exception 'the state of trader % is part of it; stop the trader, or delete it from traders', old.trader_id using errcode = 'VX422';
  end if;
  return old;
end $$;
create trigger a_state_row_goes_with_its_trader before delete on public.trader_state for each row execute function vyx.check_state_row();

-- check_lease_edit: ended leases are written by the trigger of trader_state, never changed, and kept for a day at least.
create function vyx.check_lease_edit() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'DELETE' then
    if pg_trigger_depth() = 1 and old.ended_at > clock_timestamp() - interval '1 day' then
      raise exception 'a lease is the proof of what was screened; it can be deleted a day after its end' using errcode = 'VX422';
    end if;
    return old;
  end if;
  if tg_op = 'UPDATE' or pg_trigger_depth() = 1 then
    raise exception 'an ended lease is the proof of what was screened; it is written when the owner of a trader changes, and never edited' using errcode = 'VX422';
  end if;
  return new;
end $$;
create trigger an_ended_lease_does_not_change before insert or update or delete on vyx.leases for each row execute function vyx.check_lease_edit();

-- check_slot_edit: the ledger has one row per minute; a closed slot never opens again, and none is from the future.
create function vyx.check_slot_edit() returns trigger language plpgsql set search_path = '' as $$
begin
  if tg_op = 'DELETE' then
    if old.slot > vyx.newest_slot() - interval '1 day' then
      raise exception 'slot % is part of the ledger of the last day; without its row traders would not be screened at it', old.slot using errcode = 'VX422';
    end if;
    return old;
  end if;
  if tg_op = 'INSERT' then
    if new.slot > vyx.market_time() + interval '1 day' then
      raise exception 'slot % is more than a day after the market''s own time', new.slot using errcode = 'VX422';
    end if;
    return new;
  end if;
  if new.slot <> old.slot then
    raise exception 'a slot is its instant; it cannot become another one' using errcode = 'VX422';
  end if;
  if old.state <> 'open' and new is distinct from old then
    raise exception 'slot % is closed as %; machines have screened it so', old.slot, old.state using errcode = 'VX422';
  end if;
  return new;
end $$;
create trigger a_closed_slot_stays_closed before insert or update or delete on vyx.slots for each row execute function vyx.check_slot_edit();

-- check_coordination_v1: what no trigger can refuse (rows set with triggers off, numbers that are kept) is compared, and put right.
create function vyx.check_coordination_v1() returns bigint language plpgsql set search_path = '' as $$
declare
  repairs bigint := 0;
  found bigint;
begin
  if not pg_try_advisory_xact_lock(7006, 1) then return 0; end if;

  -- one statement, so one snapshot of both
  with numbers as (
         select c.owner, c.traders as kept, 0 as counted from vyx.trader_counts c
         union all
         select s.owner, 0, 1 from public.trader_state s where s.state in ('starting', 'running')),
       off as (select n.owner, sum(n.kept) as kept, sum(n.counted) as counted from numbers n group by n.owner having sum(n.kept) <> sum(n.counted)),
       mended as (insert into vyx.trader_counts (owner, traders) select o.owner, o.counted - o.kept from off o)
  insert into vyx.incidents (kind, message)
  select 'put right', format('vyx.trader_counts had %s traders of %s, counted again there are %s', o.kept, coalesce('machine boot ' || o.owner, 'nobody'), o.counted) from off o;
  get diagnostics found = row_count;
  repairs := repairs + found;

  with mended as (
    update vyx.machine_heartbeats h set heartbeat_at = clock_timestamp(), beating_since = clock_timestamp()
     where h.heartbeat_at > clock_timestamp() + interval '2 s' returning h.boot_id)
  insert into vyx.incidents (kind, boot_id, message)
  select 'put right', m.boot_id, 'its heartbeat was from the future and was set to now' from mended m;
  get diagnostics found = row_count;
  repairs := repairs + found;

  with gaps as (
    insert into vyx.slots (slot, state, reason, closed_at)
    select minute, 'outage', 'the row of this slot was missing from the ledger', clock_timestamp()
      from generate_series(greatest(vyx.newest_slot() - interval '2 h', (select min(s.slot) from vyx.slots s)), vyx.newest_slot(), interval '1 min') minute
     where not exists (select from vyx.slots s where s.slot = minute)
    on conflict do nothing returning slot)
  insert into vyx.incidents (kind, slot, message)
  select 'put right', g.slot, 'its row was missing from the ledger and was entered as an outage' from gaps g;
  get diagnostics found = row_count;
  return repairs + found;
end $$;
