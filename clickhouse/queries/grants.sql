-- What was granted to a user, newest first.
SELECT grant_id, user_id, credits, reason, created_at
FROM credit_grants
WHERE user_id = {user_id:String}
ORDER BY created_at DESC, grant_id DESC
LIMIT {limit:UInt32};
