-- One grant; the first, should there be several with this id.
SELECT grant_id, user_id, credits, reason, created_at
FROM credit_grants
WHERE grant_id = {grant_id:String}
ORDER BY created_at
LIMIT 1;
