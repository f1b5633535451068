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
