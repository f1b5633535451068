-- The latest entries of a user, or of everybody (user_id empty), newest first: a charge (charged), one that was taken back (void),
-- or the entry that takes it back (reversal), whose numbers are negative, so that the sum is what counts.
SELECT
    event_id, user_id, action_type, model, input_tokens, output_tokens, credits_charged, description,
    resource_id, resource_type, metadata, units, prices, service_name, trace_id, span_id, created_at, received_at,
    multiIf(sign < 0, 'reversal', (event_id, batch_id) IN (SELECT event_id, batch_id FROM credit_voids), 'void', 'charged') AS status
FROM credit_usage_events
WHERE {user_id:String} = '' OR user_id = {user_id:String}
ORDER BY created_at DESC, event_id DESC, batch_id, sign
LIMIT {limit:UInt32};
