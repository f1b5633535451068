-- Usages that could not be charged, the latest first: one row a usage, however many copies of it came.
-- What is not empty narrows it down; times are microseconds since 1970, and until_us is not part of them.
SELECT
    q.event_id AS event_id,
    argMax(q.reason, q.received_at) AS reason,
    argMax(q.detail, q.received_at) AS detail,
    count() AS copies,
    sum(q.items) AS items,
    argMax(q.user_id, q.received_at) AS user_id,
    argMax(q.action_type, q.received_at) AS action_type,
    argMax(q.model, q.received_at) AS model,
    argMax(q.signal, q.received_at) AS signal,
    argMax(q.name, q.received_at) AS name,
    argMax(q.service_name, q.received_at) AS service_name,
    argMax(q.scope_name, q.received_at) AS scope_name,
    argMax(q.scope_version, q.received_at) AS scope_version,
    lower(hex(argMax(q.trace_id, q.received_at))) AS trace_id,
    lower(hex(argMax(q.span_id, q.received_at))) AS span_id,
    argMax(q.attributes, q.received_at) AS attributes,
    min(q.received_at) AS first_received_at,
    max(q.received_at) AS last_received_at
FROM credit_quarantine AS q
WHERE ({user_id:String} = '' OR q.user_id = {user_id:String})
    AND (empty({event_ids:Array(UUID)}) OR q.event_id IN ({event_ids:Array(UUID)}))
    AND toUnixTimestamp64Micro(q.received_at) >= {since_us:Int64} AND toUnixTimestamp64Micro(q.received_at) < {until_us:Int64}
GROUP BY q.event_id
HAVING {reason:String} = '' OR reason = {reason:String}
ORDER BY last_received_at DESC, event_id
LIMIT {limit:UInt32};
