-- What one user has left. No row: nothing was ever granted to the user or used by the user.
SELECT user_id, current_balance, current_month_consumed, lifetime_granted, lifetime_consumed, updated_at
FROM user_credit_balances
WHERE user_id = {user_id:String};
