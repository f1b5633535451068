-- What one rule charged, and what it made a usage that could not be charged, by user; sums of the quantities by unit.
SELECT
    rule_id, outcome, reason, user_id, action_type, count() AS usages, sumMap(quantities) AS units, sum(charge) AS credits
FROM
(
    SELECT rule_id, 'charged' AS outcome, '' AS reason, user_id, action_type, units AS quantities, credits_charged AS charge
    FROM credit_usage_events
    UNION ALL
    SELECT rule_id, 'quarantined' AS outcome, reason, user_id, action_type, map() AS quantities, toDecimal128(0, 12) AS charge
    FROM credit_quarantine
)
WHERE rule_id = {rule_id:String}
GROUP BY rule_id, outcome, reason, user_id, action_type
ORDER BY outcome, reason, user_id, action_type;
