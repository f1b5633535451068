-- How each known instrumentation reports tokens, as it counts now.
SELECT * EXCEPT (enabled)
FROM (SELECT * FROM credit_conventions ORDER BY created_at DESC LIMIT 1 BY scope_name, version_from, provider)
WHERE enabled
ORDER BY scope_name, version_from, provider;
