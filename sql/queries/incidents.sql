-- insert_incident --
-- What was found, by which machine, about which trader and slot.
insert into vyx.incidents (kind, boot_id, trader_id, slot, message)
values (%(kind)s, %(boot_id)s, (select t.id from public.traders t where t.id = %(trader_id)s), %(slot)s, %(message)s);

-- recomputing_machines --
-- Live machines on which an audit found a difference.
select machine_id, mismatches from vyx.recomputing_machines order by machine_id;
