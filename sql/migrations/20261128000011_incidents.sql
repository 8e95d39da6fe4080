-- What went wrong with the service's own state, and what was done about it.
create table vyx.incidents (
  incident_id bigint generated always as identity primary key,
  kind        text not null,
  boot_id     bigint references vyx.machines (boot_id),
  trader_id   uuid references public.traders (id) on delete cascade,
  slot        timestamptz,
  message     text not null,
  found_at    timestamptz not null default clock_timestamp(),
  constraint kind_is_known check (kind in ('audit mismatch', 'position moved', 'matches without a lease', 'put right'))
);
create index incidents_boot_id_idx on vyx.incidents (boot_id);
create index incidents_trader_id_idx on vyx.incidents (trader_id);
comment on table vyx.incidents is 'Differences that a machine found between its own state, the rows and a recomputation. Empty in a healthy service.';
comment on column vyx.incidents.kind is 'audit mismatch: a committed slot differs from its recomputation, and the machine carries nothing from slot to slot any more. position moved: somebody else changed screened_through, and it was put right. matches without a lease: matches were offered whose lease had changed; the slot was screened again. put right: a row was missing or wrong, as after an edit by hand, and was mended.';
comment on column vyx.incidents.message is 'A sentence for whoever runs the service.';

-- recomputing_machines: live machines that do not trust what they carry from slot to slot any more.
create view vyx.recomputing_machines with (security_invoker = true) as
  select m.boot_id, m.machine_id, count(*) as mismatches, min(i.found_at) as since
    from vyx.incidents i join vyx.machines m using (boot_id)
   where i.kind = 'audit mismatch' and m.state <> 'dead'
   group by m.boot_id, m.machine_id;
comment on view vyx.recomputing_machines is 'Machines on which an audit found a difference; restart them once the cause is known.';

alter table vyx.incidents enable row level security;
grant all on vyx.incidents to service_role;
grant select on vyx.recomputing_machines to service_role;
