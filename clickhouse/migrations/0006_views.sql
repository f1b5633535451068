-- What people read.
CREATE VIEW IF NOT EXISTS user_credit_balances AS
SELECT
    user_id,
    sum(granted) - sum(consumed) AS current_balance,
    sumIf(consumed, month = toStartOfMonth(now('UTC'))) AS current_month_consumed,
    sum(granted) AS lifetime_granted,
    sum(consumed) AS lifetime_consumed,
    max(t.updated_at) AS updated_at
FROM user_month_totals AS t
GROUP BY user_id;

CREATE VIEW IF NOT EXISTS credit_monthly_usage AS
SELECT
    user_id,
    month,
    action_type,
    model,
    sum(t.events) AS events,
    sum(t.input_tokens) AS input_tokens,
    sum(t.output_tokens) AS output_tokens,
    sum(t.credits_consumed) AS credits_consumed
FROM usage_month_totals AS t
GROUP BY user_id, month, action_type, model;

CREATE VIEW IF NOT EXISTS users AS
SELECT
    id,
    argMaxIf(p.email, p.updated_at, p.email != '') AS email,
    argMaxIf(p.name, p.updated_at, p.name != '') AS name
FROM user_profiles AS p
GROUP BY id;

-- Whether what each process recorded has arrived. received counts numbers, so that copies count once; what has arrived is
-- charged, a repetition of something charged, or quarantined. missing: recorded, no longer waiting, and not received. A process
-- numbers its usages from 1 without a gap, so that it recorded at least as many as the highest number that arrived, also if it was
-- killed before it could say so. A number that no process reaches is no such number.
CREATE VIEW IF NOT EXISTS client_completeness AS
SELECT
    service_name, service_instance_id, greatest(reported, highest) AS recorded, exported, failed, waiting, received, charged, quarantined,
    greatest(reported - waiting - received, highest - received, 0) AS missing, last_report_at
FROM
(
    SELECT
        service_name, service_instance_id,
        sumIf(newest, name = 'credits.client.recorded') AS reported,
        sumIf(newest, name = 'credits.client.exported') AS exported,
        sumIf(newest, name = 'credits.client.failed') AS failed,
        sumIf(newest, name = 'credits.client.waiting') AS waiting,
        max(reported_at) AS last_report_at
    FROM
    (
        SELECT service_name, service_instance_id, name, reason, argMax(value, version) AS newest, max(received_at) AS reported_at
        FROM client_counters GROUP BY service_name, service_instance_id, name, reason
    )
    GROUP BY service_name, service_instance_id
) AS c
FULL JOIN
(
    SELECT
        service_name, service_instance_id,
        toInt64(groupBitmapMerge(seqs)) AS received,
        toInt64(bitmapMax(groupBitmapMergeState(seqs))) AS highest_number,
        if(highest_number BETWEEN 0 AND 1000000000000, highest_number, 0) AS highest,
        toInt64(groupBitmapMergeIf(seqs, outcome = 'charged')) AS charged,
        toInt64(groupBitmapMergeIf(seqs, outcome IN ('charged', 'duplicate', 'quarantined')))
            - toInt64(groupBitmapMergeIf(seqs, outcome IN ('charged', 'duplicate'))) AS quarantined
    FROM client_usages GROUP BY service_name, service_instance_id
) AS u USING (service_name, service_instance_id);
