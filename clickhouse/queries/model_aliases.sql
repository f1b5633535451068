-- Models under another name, as they count now.
SELECT model, price_model, source, created_at
FROM (SELECT * FROM credit_model_aliases ORDER BY created_at DESC LIMIT 1 BY model)
WHERE price_model != ''
ORDER BY model;
