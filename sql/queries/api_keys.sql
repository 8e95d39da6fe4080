-- insert_key --
-- A new key, unless its user has as many as a user may have: then no row.
insert into vyx.api_keys (user_id, name, scopes, secret_hash, hint, expires_at)
select %(user_id)s, %(name)s, %(scopes)s, %(secret_hash)s, %(hint)s, %(expires_at)s
 where (select count(*) from vyx.api_keys k where k.user_id = %(user_id)s) < %(keys_max)s
returning id, user_id, name, scopes, hint, created_at, expires_at, last_used_at;

-- list_keys --
-- A user's keys, oldest first.
select k.id, k.user_id, k.name, k.scopes, k.hint, k.created_at, k.expires_at, k.last_used_at
  from vyx.api_keys k where k.user_id = %(user_id)s order by k.created_at, k.id;

-- delete_key --
-- Revoke a key of the user's.
delete from vyx.api_keys k where k.id = %(key_id)s and k.user_id = %(user_id)s;

-- find_key --
-- The key of this hash, while it is valid, and whether its last use was noted within the minute.
select k.id, k.user_id, k.name, k.scopes, k.hint, k.created_at, k.expires_at, k.last_used_at,
       coalesce(k.last_used_at > clock_timestamp() - interval '1 min', false) as is_noted
  from vyx.api_keys k where k.secret_hash = %(secret_hash)s and (k.expires_at is null or k.expires_at > clock_timestamp());

-- note_use --
-- When a key was last used, to the minute.
update vyx.api_keys k set last_used_at = clock_timestamp() where k.id = %(key_id)s;
