-- Fills the totals that are made anew (rebuild.sql) with those of a range of users (user_range.sql).
INSERT INTO user_month_totals_rebuilt
SELECT user_id, toStartOfMonth(created_at) AS month, toDecimal128(0, 12), sum(credits_charged), toInt64(sum(sign)), max(received_at)
FROM credit_usage_events
WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
GROUP BY user_id, month;

INSERT INTO user_month_totals_rebuilt
SELECT user_id, toStartOfMonth(created_at) AS month, sum(credits), toDecimal128(0, 12), toInt64(0), max(created_at)
FROM credit_grants
WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
GROUP BY user_id, month;

INSERT INTO usage_month_totals_rebuilt
SELECT
    user_id, toStartOfMonth(created_at) AS month, action_type, model,
    toInt64(sum(sign)), toInt64(sum(input_tokens)), toInt64(sum(output_tokens)), sum(credits_charged)
FROM credit_usage_events
WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
GROUP BY user_id, month, action_type, model;
