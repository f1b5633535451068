-- The billing rules as they count now, those that are off too, in the order in which they are asked.
SELECT
    rule_id, enabled, priority, attributes, attribute_prefixes, span_name, span_name_prefix, kind, scope_name, service_name,
    status, charge_failed, action_type, quantities, note, created_at
FROM
(
    SELECT *, row_number() OVER (PARTITION BY rule_id ORDER BY created_at DESC) AS age FROM credit_rules
)
WHERE age = 1
ORDER BY priority, rule_id;
