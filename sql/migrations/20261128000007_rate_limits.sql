-- An exact log: at most `max_calls` in ANY window, over all replicas. Emptied by a crash (unlogged), which resets limits: acceptable.
create unlogged table vyx.rate_limits (
  user_id uuid not null,
  kind    text not null,
  calls   timestamptz[] not null,
  primary key (user_id, kind)
) with (fillfactor = 50);
comment on table vyx.rate_limits is 'Instants of each user''s last calls of a kind, newest last.';
alter table vyx.rate_limits enable row level security;
grant all on vyx.rate_limits to service_role;

create function vyx.allow_call_v1("user" uuid, call_kind text, max_calls int, window_length interval, now timestamptz default null,
                                  out allowed boolean, out remaining int, out retry_after interval, out reset_after interval)
language plpgsql set search_path = '' as $$
declare
  clock timestamptz := coalesce(now, clock_timestamp());
  log timestamptz[];
begin
  insert into vyx.rate_limits as r (user_id, kind, calls) values ("user", call_kind, array[clock])
  on conflict (user_id, kind) do update
    set calls = r.calls[greatest(1, cardinality(r.calls) - max_calls + 2):] || clock
    where cardinality(r.calls) < max_calls or r.calls[cardinality(r.calls) - max_calls + 1] <= clock - window_length;
  allowed := found;
  select r.calls into log from vyx.rate_limits r where r.user_id = "user" and r.kind = call_kind;
  select count(*) filter (where c > clock - window_length) into remaining from unnest(log) c;
  remaining := greatest(0, max_calls - remaining);
  retry_after := case when allowed then interval '0' else log[greatest(1, cardinality(log) - max_calls + 1)] + window_length - clock end;
  reset_after := greatest(interval '0', coalesce(log[cardinality(log)] + window_length - clock, interval '0'));
end $$;

-- calls_left_v1: the same without counting a call.
create function vyx.calls_left_v1("user" uuid, call_kind text, max_calls int, window_length interval, now timestamptz default null,
                                  out remaining int, out reset_after interval)
language sql stable set search_path = '' as $$
  select greatest(0, max_calls - count(c)::int), coalesce(max(c) + window_length - coalesce(now, clock_timestamp()), interval '0')
    from vyx.rate_limits r cross join unnest(r.calls) c
   where r.user_id = "user" and r.kind = call_kind and c > coalesce(now, clock_timestamp()) - window_length
$$;
