-- The decision to take back a charge, if there is one.
SELECT event_id, user_id, action_type, model, credits_charged AS credits, comment AS reason, voided_by, voided_at, created_at
FROM credit_voids
WHERE event_id = {event_id:UUID} AND kind = 'void'
ORDER BY voided_at
LIMIT 1;
