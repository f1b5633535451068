-- The last user of a range that begins behind a user (after; empty: at the first) and is small enough to be looked at in one go:
-- at most some rows in each table, or one user. Empty: the range has no end.
SELECT min(user_id) AS until
FROM
(
    (SELECT user_id FROM credit_usage_events WHERE {after:String} = '' OR user_id > {after:String} ORDER BY user_id LIMIT 1 OFFSET {rows:UInt32})
    UNION ALL
    (SELECT user_id FROM credit_grants WHERE {after:String} = '' OR user_id > {after:String} ORDER BY user_id LIMIT 1 OFFSET {rows:UInt32})
    UNION ALL
    (SELECT user_id FROM user_month_totals WHERE {after:String} = '' OR user_id > {after:String} ORDER BY user_id LIMIT 1 OFFSET {rows:UInt32})
    UNION ALL
    (SELECT user_id FROM usage_month_totals WHERE {after:String} = '' OR user_id > {after:String} ORDER BY user_id LIMIT 1 OFFSET {rows:UInt32})
);
