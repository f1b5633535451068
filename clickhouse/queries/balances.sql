-- What each user has left.
SELECT
    b.user_id AS user_id,
    u.email AS email,
    u.name AS name,
    b.current_balance AS current_balance,
    b.current_month_consumed AS current_month_consumed,
    b.lifetime_granted AS lifetime_granted,
    b.lifetime_consumed AS lifetime_consumed,
    b.updated_at AS updated_at
FROM user_credit_balances AS b
LEFT JOIN users AS u ON u.id = b.user_id
ORDER BY user_id
LIMIT {limit:UInt32};
