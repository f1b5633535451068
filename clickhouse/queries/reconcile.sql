-- Where the running totals differ from the events and grants they were made of: no row means that they agree.
-- total names the column of the total; action_type and model are empty for the totals behind the balance.
-- Of some users, or of all (users empty), behind a user (after) up to another (until), or without these bounds (empty). The
-- ledger asks range by range (user_range.sql), so that its memory is bounded however many events there are.
SELECT user_id, month, action_type, model, total, sum(of_entries) AS expected, sum(of_total) AS found
FROM
(
    SELECT
        user_id, toStartOfMonth(created_at) AS month, '' AS action_type, '' AS model,
        arrayJoin([('consumed', sum(credits_charged)), ('events', toDecimal128(sum(sign), 12))]) AS named,
        named.1 AS total, named.2 AS of_entries, toDecimal128(0, 12) AS of_total
    FROM credit_usage_events
    WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
        AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    GROUP BY user_id, month

    UNION ALL

    SELECT
        user_id, toStartOfMonth(created_at) AS month, '' AS action_type, '' AS model,
        ('granted', sum(credits)) AS named,
        named.1 AS total, named.2 AS of_entries, toDecimal128(0, 12) AS of_total
    FROM credit_grants
    WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
        AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    GROUP BY user_id, month

    UNION ALL

    SELECT
        user_id, month, '' AS action_type, '' AS model,
        arrayJoin([('granted', sum(granted)), ('consumed', sum(consumed)), ('events', toDecimal128(sum(events), 12))]) AS named,
        named.1 AS total, toDecimal128(0, 12) AS of_entries, named.2 AS of_total
    FROM user_month_totals
    WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
        AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    GROUP BY user_id, month

    UNION ALL

    SELECT
        user_id, toStartOfMonth(created_at) AS month, action_type, model,
        arrayJoin([
            ('credits_consumed', sum(credits_charged)), ('events', toDecimal128(sum(sign), 12)),
            ('input_tokens', toDecimal128(sum(input_tokens), 12)), ('output_tokens', toDecimal128(sum(output_tokens), 12))
        ]) AS named,
        named.1 AS total, named.2 AS of_entries, toDecimal128(0, 12) AS of_total
    FROM credit_usage_events
    WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
        AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    GROUP BY user_id, month, action_type, model

    UNION ALL

    SELECT
        user_id, month, action_type, model,
        arrayJoin([
            ('credits_consumed', sum(credits_consumed)), ('events', toDecimal128(sum(events), 12)),
            ('input_tokens', toDecimal128(sum(input_tokens), 12)), ('output_tokens', toDecimal128(sum(output_tokens), 12))
        ]) AS named,
        named.1 AS total, toDecimal128(0, 12) AS of_entries, named.2 AS of_total
    FROM usage_month_totals
    WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
        AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    GROUP BY user_id, month, action_type, model
)
GROUP BY user_id, month, action_type, model, total
HAVING expected != found
ORDER BY user_id, month, action_type, model, total;
