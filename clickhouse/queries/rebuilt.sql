-- How many totals of a range of users were made anew, and how many of the live ones have another sum.
SELECT
    countIf(action_type = '' AND has(sides, 'new')) AS user_months,
    countIf(action_type != '' AND has(sides, 'new')) AS usage_months,
    countIf(sums != (0, 0, 0, 0)) AS changed
FROM
(
    SELECT
        user_id, month, action_type, model, groupUniqArray(side) AS sides,
        (sum(a), sum(b), sum(c), sum(d)) AS sums
    FROM
    (
        SELECT 'old' AS side, user_id, month, '' AS action_type, '' AS model, granted AS a, consumed AS b, events AS c, toInt64(0) AS d
        FROM user_month_totals
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
        UNION ALL
        SELECT 'new' AS side, user_id, month, '' AS action_type, '' AS model, -granted AS a, -consumed AS b, -events AS c, toInt64(0) AS d
        FROM user_month_totals_rebuilt
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
        UNION ALL
        SELECT 'old' AS side, user_id, month, action_type, model, credits_consumed AS a, toDecimal128(events, 12) AS b, input_tokens AS c, output_tokens AS d
        FROM usage_month_totals
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
        UNION ALL
        SELECT 'new' AS side, user_id, month, action_type, model, -credits_consumed AS a, -toDecimal128(events, 12) AS b, -input_tokens AS c, -output_tokens AS d
        FROM usage_month_totals_rebuilt
        WHERE ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    )
    GROUP BY user_id, month, action_type, model
);
