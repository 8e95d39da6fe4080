-- Keys for scripts and bots, which have no user session. Only the hash is stored: 240 random bits need no slow one.
create table vyx.api_keys (
  id           uuid primary key default gen_random_uuid(),
  user_id      uuid not null references auth.users (id) on delete cascade,
  name         text not null,
  scopes       text[] not null,
  secret_hash  bytea not null unique,
  hint         text not null,
  created_at   timestamptz not null default clock_timestamp(),
  expires_at   timestamptz,
  last_used_at timestamptz,
  constraint key_name_has_1_to_120_characters check (length(name) between 1 and 120),
  constraint scopes_are_known check (cardinality(scopes) > 0 and scopes <@ array['read', 'trade', 'admin'])
);
create index api_keys_user_id_idx on vyx.api_keys (user_id, created_at);
comment on table vyx.api_keys is 'API keys of users. Deleting a row revokes the key on every web process at once.';
comment on column vyx.api_keys.secret_hash is 'SHA-256 of the key.';
comment on column vyx.api_keys.hint is 'The beginning of the key, to tell it from others.';
comment on column vyx.api_keys.last_used_at is 'To the minute.';
create trigger announce_user after delete or update of scopes, expires_at, secret_hash on vyx.api_keys
  for each row execute function vyx.announce_user();
alter table vyx.api_keys enable row level security;
grant all on vyx.api_keys to service_role;
