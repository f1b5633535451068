-- Where the running totals differ from the events and grants they were made of: no row means that they agree.
-- total names the column of the total; action_type and model are empty for the totals behind the balance.
-- Of one user, or of all (user_id empty). The ledger runs it with external aggregation, so that memory stays bounded.
SELECT user_id, month, action_type, model, total, sum(of_entries) AS expected, sum(of_total) AS found
FROM
(
    SELECT
        user_id, toStartOfMonth(created_at) AS month, '' AS action_type, '' AS model,
        arrayJoin([('consumed', sum(credits_charged)), ('events', toDecimal128(count(), 12))]) AS named,
        named.1 AS total, named.2 AS of_entries, toDecimal128(0, 12) AS of_total
    FROM credit_usage_events
    WHERE {user_id:String} = '' OR user_id = {user_id:String}
    GROUP BY user_id, month

    UNION ALL

    SELECT
        user_id, toStartOfMonth(created_at) AS month, '' AS action_type, '' AS model,
        ('granted', sum(credits)) AS named,
        named.1 AS total, named.2 AS of_entries, toDecimal128(0, 12) AS of_total
    FROM credit_grants
    WHERE {user_id:String} = '' OR user_id = {user_id:String}
    GROUP BY user_id, month

    UNION ALL

    SELECT
        user_id, month, '' AS action_type, '' AS model,
        arrayJoin([('granted', sum(granted)), ('consumed', sum(consumed)), ('events', toDecimal128(sum(events), 12))]) AS named,
        named.1 AS total, toDecimal128(0, 12) AS of_entries, named.2 AS of_total
    FROM user_month_totals
    WHERE {user_id:String} = '' OR user_id = {user_id:String}
    GROUP BY user_id, month

    UNION ALL

    SELECT
        user_id, toStartOfMonth(created_at) AS month, action_type, model,
        arrayJoin([
            ('credits_consumed', sum(credits_charged)), ('events', toDecimal128(count(), 12)),
            ('input_tokens', toDecimal128(sum(input_tokens), 12)), ('output_tokens', toDecimal128(sum(output_tokens), 12))
        ]) AS named,
        named.1 AS total, named.2 AS of_entries, toDecimal128(0, 12) AS of_total
    FROM credit_usage_events
    WHERE {user_id:String} = '' OR user_id = {user_id:String}
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
    WHERE {user_id:String} = '' OR user_id = {user_id:String}
    GROUP BY user_id, month, action_type, model
)
GROUP BY user_id, month, action_type, model, total
HAVING expected != found
ORDER BY user_id, month, action_type, model, total;
