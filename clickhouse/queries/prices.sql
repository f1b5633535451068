-- The price book. status: 'current' applies now, 'future' will apply, 'past' priced earlier usage,
-- 'replaced' never applies because a later row has the same action, model, unit and date.
SELECT
    action_type, model, unit, credits_per_unit, effective_from, source, created_at,
    multiIf(
        created_at != last_of_its_date, 'replaced',
        effective_from > now64(6, 'UTC'), 'future',
        effective_from = last_so_far, 'current',
        'past') AS status
FROM
(
    SELECT
        *,
        max(created_at) OVER (PARTITION BY action_type, model, unit, effective_from) AS last_of_its_date,
        maxIf(effective_from, effective_from <= now64(6, 'UTC')) OVER (PARTITION BY action_type, model, unit) AS last_so_far
    FROM credit_action_costs
)
ORDER BY action_type, model, unit, effective_from, created_at;
