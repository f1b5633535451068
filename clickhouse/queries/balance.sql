-- What one user has left. No row: nothing was ever granted to the user or used by the user.
SELECT
    b.user_id AS user_id,
    u.email AS email,
    u.name AS name,
    b.current_balance AS current_balance,
    b.current_month_consumed AS current_month_consumed,
    b.lifetime_granted AS lifetime_granted,
    b.lifetime_consumed AS lifetime_consumed,
    b.updated_at AS updated_at
FROM (SELECT * FROM user_credit_balances WHERE user_id = {user_id:String}) AS b
LEFT JOIN (SELECT * FROM users WHERE id = {user_id:String}) AS u ON u.id = b.user_id;
