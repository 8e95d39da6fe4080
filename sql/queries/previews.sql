-- insert_preview --
-- A question for the machines; its job is deferred in the same transaction.
insert into vyx.previews (user_id, plan, bars, symbols, until)
values (%(user_id)s, %(plan)s, %(bars)s, %(symbols)s, %(until)s)
returning preview_id;

-- insert_audit --
-- A question about a trader's own past; answered by the same job.
insert into vyx.previews (user_id, trader_id, since, until) values (%(user_id)s, %(trader_id)s, %(since)s, %(until)s) returning preview_id;

-- take_preview --
-- Begin to answer, unless another job did or nobody waits any more.
update vyx.previews p set state = 'running'
 where p.preview_id = %(preview_id)s and p.state = 'waiting' and p.created_at > clock_timestamp() - make_interval(secs => %(wait_s)s)
returning p.plan::text as plan, p.bars, p.symbols, p.trader_id, p.since, p.until;

-- end_preview --
-- The answer, or why there is none; an ended preview stays as it is.
update vyx.previews p set state = %(state)s::vyx.preview_state, result = %(result)s::jsonb, problem = %(problem)s, ended_at = clock_timestamp()
 where p.preview_id = %(preview_id)s and p.state in ('waiting', 'running');

-- find_preview --
-- How it stands, for the request that waits.
select p.state::text as state, p.result::text as result, p.problem from vyx.previews p where p.preview_id = %(preview_id)s;

-- prune_previews --
-- Nobody reads an old answer.
delete from vyx.previews p where p.created_at < clock_timestamp() - make_interval(secs => %(keep_s)s);
