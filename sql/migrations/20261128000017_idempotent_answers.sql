-- A POST that is sent again with the same Idempotency-Key is answered as it was the first time, for 24 hours, by any web process.
create table vyx.idempotent_answers (
  user_id     uuid not null references auth.users (id) on delete cascade,
  key         text not null,
  fingerprint bytea not null,
  claim       uuid not null default gen_random_uuid(),
  claimed_at  timestamptz not null default clock_timestamp(),
  status      int,
  headers     jsonb,
  body        bytea,
  primary key (user_id, key),
  constraint key_has_1_to_200_characters check (length(key) between 1 and 200),
  constraint an_answer_is_whole check ((status is null) = (headers is null) and (status is null) = (body is null))
);
create index idempotent_answers_claimed_at_idx on vyx.idempotent_answers (claimed_at);
create index idempotent_answers_user_id_claimed_at_idx on vyx.idempotent_answers (user_id, claimed_at desc);
comment on table vyx.idempotent_answers is 'Answers to POSTs with an Idempotency-Key; without a status the request is still being answered. Pruned after 24 hours.';
comment on column vyx.idempotent_answers.fingerprint is 'Hash of method, path and body: the same key with another request is a mistake of the client.';
comment on column vyx.idempotent_answers.claim is 'Of the request that answers; one that was overtaken after a minute of silence stores nothing.';
alter table vyx.idempotent_answers enable row level security;
grant all on vyx.idempotent_answers to service_role;

-- claim_idempotent_v1: either this request answers (claim is not null), or what is known of the one that does. A claim without an answer is
-- overtaken after a minute: its process is gone. A user keeps the newest 1000 answers.
create function vyx.claim_idempotent_v1("user" uuid, idempotency_key text, request_fingerprint bytea, now timestamptz default null,
  out claim uuid, out same_request boolean, out status int, out headers jsonb, out body bytea)
language plpgsql set search_path = '' as $$
declare clock timestamptz := coalesce(now, clock_timestamp());
begin
  insert into vyx.idempotent_answers as a (user_id, key, fingerprint, claimed_at) values ("user", idempotency_key, request_fingerprint, clock)
  on conflict (user_id, key) do update
    set fingerprint = excluded.fingerprint, claim = gen_random_uuid(), claimed_at = clock, status = null, headers = null, body = null
    where a.claimed_at <= clock - interval '24 h'
       or (a.status is null and a.fingerprint = excluded.fingerprint and a.claimed_at <= clock - interval '60 s')
  returning a.claim into claim;
  if claim is not null then
    same_request := true;
    delete from vyx.idempotent_answers a using (
      select o.key from vyx.idempotent_answers o where o.user_id = "user" order by o.claimed_at desc offset 1000) old
     where a.user_id = "user" and a.key = old.key;
    return;
  end if;
  select a.fingerprint = request_fingerprint, a.status, a.headers, a.body into same_request, status, headers, body
    from vyx.idempotent_answers a where a.user_id = "user" and a.key = idempotency_key;
end $$;
