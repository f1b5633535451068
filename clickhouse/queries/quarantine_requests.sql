-- Whole requests that could not be inserted, the oldest first; parameters as in quarantine.sql.
SELECT
    quarantine_id, event_id, reason, detail, received_at,
    if(signal = 'span', 'traces', 'metrics') AS signal, items, receiver, length(raw_request) AS raw_bytes
FROM credit_quarantine AS q
WHERE raw_request != ''
    AND ({reason:String} = '' OR q.reason = {reason:String})
    AND ({user_id:String} = '' OR user_id = {user_id:String})
    AND (empty({event_ids:Array(UUID)}) OR event_id IN ({event_ids:Array(UUID)}))
    AND toUnixTimestamp64Micro(received_at) >= {since_us:Int64} AND toUnixTimestamp64Micro(received_at) < {until_us:Int64}
ORDER BY received_at, quarantine_id
LIMIT {limit:UInt32};
