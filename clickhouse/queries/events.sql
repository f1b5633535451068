-- The latest charges of a user, or of everybody (user_id empty), newest first.
SELECT
    event_id, user_id, action_type, model, input_tokens, output_tokens, credits_charged, description,
    resource_id, resource_type, metadata, units, prices, service_name, trace_id, span_id, created_at, received_at
FROM credit_usage_events
WHERE {user_id:String} = '' OR user_id = {user_id:String}
ORDER BY created_at DESC, event_id DESC
LIMIT {limit:UInt32};
