-- Every row of one quarantined usage, the latest first.
SELECT
    quarantine_id, event_id, reason, detail, received_at, items, user_id, action_type, model, signal, name, service_name,
    scope_name, scope_version, receiver, lower(hex(q.trace_id)) AS trace_id, lower(hex(q.span_id)) AS span_id,
    start_time_unix_nano AS started_at_ns, end_time_unix_nano AS ended_at_ns, attributes,
    length(raw_request) AS raw_bytes, lower(hex(substring(raw_request, 1, 64))) AS raw_begin
FROM credit_quarantine AS q
WHERE event_id = {event_id:UUID}
ORDER BY received_at DESC, quarantine_id
LIMIT {limit:UInt32};
