-- A new version of the engine recompiles old plans from their source. To its user the trader is the same one, so a transaction that
-- says it is recompiling (set_config('vyx.recompiling', 'on', true)) moves neither revision nor updated_at. A plan edited by hand says
-- no such thing: it raises the revision, is loaded, and refused for its hash.
create or replace function vyx.raise_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  if new.user_id is distinct from old.user_id then
    raise exception 'a trader does not change hands' using errcode = 'VX422';
  end if;
  if current_setting('vyx.recompiling', true) = 'on'
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
