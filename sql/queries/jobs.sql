-- use_job_schema --
-- procrastinate's statements and triggers name their tables without a schema. For the transaction, or for the session.
select set_config('search_path', 'procrastinate', not %(for_session)s);

-- limit_waiting --
-- Whatever comes next in this transaction ends soon when somebody holds the jobs' tables.
select set_config('lock_timeout', %(limit)s, true), set_config('statement_timeout', %(limit)s, true);

-- dead_letters --
-- How many jobs failed for good.
select count(*) from public.dead_letters;

-- redeliver --
-- Dead letters go back to their queues, except those for machines that are gone and those that wait there already. A job that
-- waits is unique by its queueing lock, so of several dead ones with one lock the newest goes.
with dead as (
  select distinct on (coalesce(j.queueing_lock, j.id::text)) j.id
    from procrastinate.procrastinate_jobs j
   where j.status in ('failed', 'aborted')
     and (j.queue_name not like 'm.%%' or exists (select from vyx.machines m where m.state <> 'dead' and j.queue_name = 'm.' || m.boot_id))
     and not exists (select from procrastinate.procrastinate_jobs w where w.status = 'todo' and w.queueing_lock = j.queueing_lock)
   order by coalesce(j.queueing_lock, j.id::text), j.id desc
)
update procrastinate.procrastinate_jobs j set status = 'todo', abort_requested = false, scheduled_at = now(), attempts = j.attempts + 1
  from dead where j.id = dead.id;

-- cancel_jobs_of_the_dead --
-- Jobs on the queues of dead machines would stay todo for ever.
delete from procrastinate.procrastinate_jobs j
 where j.status = 'todo' and j.queue_name like 'm.%%'
   and not exists (select from vyx.machines m where m.state <> 'dead' and j.queue_name = 'm.' || m.boot_id);

-- prune_jobs --
-- So many jobs that ended before an instant: done, cancelled, or failed and redelivered by nobody.
delete from procrastinate.procrastinate_jobs j using (
  select o.id from procrastinate.procrastinate_jobs o
   where o.status in ('succeeded', 'failed', 'cancelled', 'aborted')
     and not exists (select from procrastinate.procrastinate_events e where e.job_id = o.id and e.at >= %(before)s)
   order by o.id limit %(limit)s) old
 where j.id = old.id;
