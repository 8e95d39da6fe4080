-- What changed among a machine's traders since it looked, without reading all of them.
alter table public.trader_state add column changed_in xid8 not null default pg_current_xact_id();
create index trader_state_changed_in_idx on public.trader_state (changed_in);
comment on column public.trader_state.changed_in is 'The transaction that last changed state, owner or what is screened. A machine reads the rows of transactions that were not over when it looked last: none is missed, whichever commits first.';

-- note_change: after guard_trader_state, which may change the owner.
create function vyx.note_change() returns trigger language plpgsql set search_path = '' as $$
begin
  new.changed_in := pg_current_xact_id();
  return new;
end $$;
create trigger note_change before update on public.trader_state for each row
  when (new.state is distinct from old.state or new.owner is distinct from old.owner) execute function vyx.note_change();

-- note_revision: what is screened is another column's business, but the same machine's.
create function vyx.note_revision() returns trigger language plpgsql set search_path = '' as $$
begin
  update public.trader_state s set changed_in = pg_current_xact_id() where s.trader_id = new.id;
  return null;
end $$;
create trigger note_revision after update on public.traders for each row
  when (new.revision is distinct from old.revision) execute function vyx.note_revision();
