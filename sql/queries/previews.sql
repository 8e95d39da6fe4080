-- insert_preview --
-- A question for the machines, at the end of its user's line; no row when the line is full. Its job is deferred in the same transaction.
insert into vyx.previews (user_id, plan, bars, symbols, until)
select %(user_id)s, %(plan)s, %(bars)s, %(symbols)s, %(until)s
 where (select count(*) from vyx.previews p
         where p.user_id = %(user_id)s and p.state = 'waiting'
           and p.created_at > clock_timestamp() - make_interval(secs => %(wait_s)s)) < %(waiting_max)s
returning preview_id;

-- insert_audit --
-- A question about a trader's own past, in the same line; answered by the same job.
insert into vyx.previews (user_id, trader_id, since, until)
select %(user_id)s, %(trader_id)s, %(since)s, %(until)s
 where (select count(*) from vyx.previews p
         where p.user_id = %(user_id)s and p.state = 'waiting'
           and p.created_at > clock_timestamp() - make_interval(secs => %(wait_s)s)) < %(waiting_max)s
returning preview_id;

-- claim_preview --
-- Begin to answer the preview whose turn it is.
select p.preview_id, p.plan::text as plan, p.bars, p.symbols, p.trader_id, p.since, p.until
  from vyx.claim_preview_v1(%(wait_s)s, %(silent_s)s, %(in_flight_max)s) p;

-- advance_preview --
-- How far a machine has come, which also says that it still works on it.
update vyx.previews p set bars_done = %(bars_done)s, worked_at = clock_timestamp()
 where p.preview_id = %(preview_id)s and p.state = 'running';

-- give_up_preview --
-- Nobody waits for it any more: it leaves its user's line.
update vyx.previews p set state = 'timeout', problem = %(problem)s, ended_at = clock_timestamp()
 where p.preview_id = %(preview_id)s and p.state = 'waiting';

-- end_preview --
-- The answer, or why there is none; an ended preview stays as it is.
update vyx.previews p set state = %(state)s::vyx.preview_state, result = %(result)s::jsonb, problem = %(problem)s, ended_at = clock_timestamp()
 where p.preview_id = %(preview_id)s and p.state in ('waiting', 'running');

-- find_preview --
-- How it stands, for the request that waits.
select p.state::text as state, p.result::text as result, p.problem from vyx.previews p where p.preview_id = %(preview_id)s;

-- prune_previews --
-- Nobody reads an old answer: so many of them go.
delete from vyx.previews p using (select o.preview_id from vyx.previews o where o.created_at < %(before)s limit %(limit)s) old
 where p.preview_id = old.preview_id;
