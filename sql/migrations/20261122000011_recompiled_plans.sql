-- A new version of the engine recompiles old plans from their source. To its user the trader is the same one: neither its revision nor
-- updated_at moves when nothing but the plan, and that to another version of the format, has changed.
create or replace function vyx.raise_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.user_id is distinct from old.user_id then
    raise exception 'a trader does not change hands' using errcode = 'VX422';
  end if;
  if new.plan -> 'version' is distinct from old.plan -> 'version'
     and (new.name, new.description, new.filter, new.symbols, new.frequency)
         is not distinct from (old.name, old.description, old.filter, old.symbols, old.frequency) then
    return new;
  end if;
  new.updated_at := clock_timestamp();
  if (new.plan, new.filter, new.symbols, new.frequency) is distinct from (old.plan, old.filter, old.symbols, old.frequency) then
    new.revision := old.revision + 1;
  end if;
  return new;
end $$;
