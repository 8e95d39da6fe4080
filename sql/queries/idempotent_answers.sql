-- claim_idempotent --
-- Either this request answers (claim is not null), or what is known of the one that does.
select claim, same_request, status, headers, body from vyx.claim_idempotent_v1(%(user_id)s, %(key)s, %(fingerprint)s, %(now)s);

-- put_answer --
-- The answer, for whoever asks again; nothing when another request has overtaken this one.
update vyx.idempotent_answers a set status = %(status)s, headers = %(headers)s, body = %(body)s
 where a.user_id = %(user_id)s and a.key = %(key)s and a.claim = %(claim)s;

-- give_up_claim --
-- There is no answer to keep: whoever asks again is answered anew.
delete from vyx.idempotent_answers a where a.user_id = %(user_id)s and a.key = %(key)s and a.claim = %(claim)s;

-- prune_answers --
-- Nobody asks again after a day: so many of them go.
delete from vyx.idempotent_answers a using (
  select o.user_id, o.key from vyx.idempotent_answers o where o.claimed_at < %(before)s limit %(limit)s) old
 where a.user_id = old.user_id and a.key = old.key and a.claimed_at < %(before)s;
