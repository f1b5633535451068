-- Where the running totals differ from the events and grants they were made of: no row means that they agree.
-- total names the column of the total; action_type and model are empty for the totals behind the balance.
-- Of some users, or of all (users empty), behind a user (after) up to another (until), or without these bounds (empty). The
-- ledger asks range by range (user_range.sql), so that its memory is bounded however many events there are.
-- The events are read once, and a key is compared with all its sums at once: only of those that differ each total gets a row.
SELECT user_id, month, action_type, model, named.1 AS total, named.2 AS expected, named.3 AS found
FROM
(
    SELECT
        user_id, month, action_type, model,
        (sumIf(granted, NOT is_total), sumIf(consumed, NOT is_total), sumIf(events, NOT is_total), sumIf(input, NOT is_total), sumIf(output, NOT is_total)) AS entries,
        (sumIf(granted, is_total), sumIf(consumed, is_total), sumIf(events, is_total), sumIf(input, is_total), sumIf(output, is_total)) AS totals
    FROM
    (
        -- The sums of an action and model are part of the month's, too.
        SELECT
            user_id, month, key.1 AS action_type, key.2 AS model, false AS is_total,
            toDecimal128(0, 12) AS granted, consumed, events, key.3 * input_tokens AS input, key.3 * output_tokens AS output
        FROM
        (
            SELECT
                user_id, toStartOfMonth(created_at) AS month, action_type, model,
                sum(credits_charged) AS consumed, toInt64(sum(sign)) AS events,
                sum(e.input_tokens) AS input_tokens, sum(e.output_tokens) AS output_tokens
            FROM credit_usage_events AS e
            WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
                AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
            GROUP BY user_id, month, action_type, model
        ) AS used
        ARRAY JOIN [('', '', 0), (toString(used.action_type), toString(used.model), 1)] AS key

        UNION ALL

        SELECT
            user_id, toStartOfMonth(created_at) AS month, '' AS action_type, '' AS model, false AS is_total,
            credits AS granted, toDecimal128(0, 12) AS consumed, 0 AS events, 0 AS input, 0 AS output
        FROM credit_grants
        WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
            AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})

        UNION ALL

        SELECT
            user_id, month, '' AS action_type, '' AS model, true AS is_total,
            granted, consumed, events, 0 AS input, 0 AS output
        FROM user_month_totals
        WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
            AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})

        UNION ALL

        SELECT
            user_id, month, toString(t.action_type) AS action_type, toString(t.model) AS model, true AS is_total,
            toDecimal128(0, 12) AS granted, credits_consumed AS consumed, events, input_tokens AS input, output_tokens AS output
        FROM usage_month_totals AS t
        WHERE (empty({users:Array(String)}) OR user_id IN ({users:Array(String)}))
            AND ({after:String} = '' OR user_id > {after:String}) AND ({until:String} = '' OR user_id <= {until:String})
    )
    GROUP BY user_id, month, action_type, model
    HAVING entries != totals
)
ARRAY JOIN
    if(action_type = '',
        [
            ('granted', entries.1, totals.1),
            ('consumed', entries.2, totals.2),
            ('events', toDecimal128(entries.3, 12), toDecimal128(totals.3, 12))
        ],
        [
            ('credits_consumed', entries.2, totals.2),
            ('events', toDecimal128(entries.3, 12), toDecimal128(totals.3, 12)),
            ('input_tokens', toDecimal128(entries.4, 12), toDecimal128(totals.4, 12)),
            ('output_tokens', toDecimal128(entries.5, 12), toDecimal128(totals.5, 12))
        ]) AS named
WHERE expected != found
ORDER BY user_id, month, action_type, model, total;
