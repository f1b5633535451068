-- How many usages wait in the quarantine, by reason.
SELECT
    q.reason AS reason,
    uniqExact(q.event_id) AS usages,
    sum(q.items) AS items,
    min(q.received_at) AS first_received_at,
    max(q.received_at) AS last_received_at
FROM credit_quarantine AS q
GROUP BY q.reason
ORDER BY usages DESC, reason;
