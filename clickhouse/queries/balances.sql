-- What each user has left.
SELECT user_id, current_balance, current_month_consumed, lifetime_granted, lifetime_consumed, updated_at
FROM user_credit_balances
ORDER BY user_id
LIMIT {limit:UInt32};
