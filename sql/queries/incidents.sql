-- insert_incident --
-- What was found, by which machine, about which trader and slot.
insert into vyx.incidents (kind, boot_id, trader_id, slot, message)
values (%(kind)s, %(boot_id)s, (select t.id from public.traders t where t.id = %(trader_id)s), %(slot)s, %(message)s);

-- recomputing_machines --
-- Live machines on which an audit found a difference.
select machine_id, mismatches from vyx.recomputing_machines order by machine_id;

-- prune_incidents --
-- So many old incidents, except those of machines that live: they say why one recomputes.
delete from vyx.incidents i using (
  select o.incident_id from vyx.incidents o left join vyx.machines m using (boot_id)
   where o.found_at < %(before)s and m.state is distinct from 'alive' and m.state is distinct from 'draining' limit %(limit)s) old
 where i.incident_id = old.incident_id;
