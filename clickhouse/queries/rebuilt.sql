-- How many totals of a range of users were made anew, and how many of the live ones have another sum. The new ones are taken off
-- the live ones, so that a key whose sums are all 0 is right.
SELECT
    countIf(action_type = '' AND is_made) AS user_months,
    countIf(action_type != '' AND is_made) AS usage_months,
    countIf(is_changed) AS changed
FROM
(
    SELECT
        user_id, month, action_type, model, max(is_new) AS is_made,
        (sum(granted), sum(consumed), sum(events), sum(input), sum(output)) != (0, 0, 0, 0, 0) AS is_changed
    FROM
    (
        SELECT user_id, month, '' AS action_type, '' AS model, false AS is_new,
            granted, consumed, events, 0 AS input, 0 AS output
        FROM user_month_totals
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
        UNION ALL
        SELECT user_id, month, '' AS action_type, '' AS model, true AS is_new,
            -t.granted AS granted, -t.consumed AS consumed, -t.events AS events, 0 AS input, 0 AS output
        FROM user_month_totals_rebuilt AS t
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
        UNION ALL
        SELECT user_id, month, action_type, model, false AS is_new,
            toDecimal128(0, 12) AS granted, credits_consumed AS consumed, events, input_tokens AS input, output_tokens AS output
        FROM usage_month_totals
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
        UNION ALL
        SELECT user_id, month, action_type, model, true AS is_new,
            toDecimal128(0, 12) AS granted, -credits_consumed AS consumed, -t.events AS events, -input_tokens AS input, -output_tokens AS output
        FROM usage_month_totals_rebuilt AS t
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    )
    GROUP BY user_id, month, action_type, model
);
