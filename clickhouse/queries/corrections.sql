-- What one insert has corrected, of the totals behind the balance or of the others: the rows as they are on record.
SELECT user_id, month, action_type, model, total, before, after, difference, corrected_by, comment, corrected_at, insert_id
FROM credit_corrections
WHERE insert_id = {insert_id:UUID} AND (action_type = '') = {of_balance:Bool}
ORDER BY user_id, month, action_type, model, total;
