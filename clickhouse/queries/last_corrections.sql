-- The last correction of each total of some users, and how many there were. It counts unless its total was made anew since then
-- (rebuild.sql): a total that is made anew is right, and knows nothing of corrections.
SELECT
    user_id, month, action_type, model, total, count() AS times,
    argMax(c.insert_id, c.corrected_at) AS insert_id,
    argMax(c.difference, c.corrected_at) AS difference,
    argMax(c.corrected_by, c.corrected_at) AS corrected_by,
    argMax(c.comment, c.corrected_at) AS comment,
    max(c.corrected_at) >= (
        SELECT max(metadata_modification_time) FROM system.tables
        WHERE database = currentDatabase() AND name IN ('user_month_totals', 'usage_month_totals')) AS counts
FROM credit_corrections AS c
WHERE user_id IN ({users:Array(String)})
GROUP BY user_id, month, action_type, model, total
ORDER BY user_id, month, action_type, model, total;
