-- Consumption by month, action and model, of a user or of everybody (user_id empty); latest month first.
SELECT user_id, month, action_type, model, events, input_tokens, output_tokens, credits_consumed
FROM credit_monthly_usage
WHERE {user_id:String} = '' OR user_id = {user_id:String}
ORDER BY month DESC, user_id, action_type, model
LIMIT {limit:UInt32};
