-- Billing rules for what most apps have, switched off: a store charges by none of them until someone says so
-- (otel-credits rules on NAME) and has priced their actions. A rule that is already there is not touched.
INSERT INTO credit_rules (rule_id, attributes, attribute_prefixes, span_name_prefix, kind, scope_name, action_type, quantities, note)
SELECT rule_id, attributes, attribute_prefixes, span_name_prefix, kind, scope_name, action_type, quantities, note
FROM values(
    'rule_id String, attributes Map(String, String), attribute_prefixes Map(String, String), span_name_prefix String, kind String, scope_name String,
        action_type String, quantities Map(String, String), note String',
    ('fastapi-routes', map(), map('http.route', ''), '', 'server', 'opentelemetry.instrumentation.fastapi', 'http_request', map('call', 'one'),
        'requests that met a route, by opentelemetry-instrumentation-fastapi; spans of a mounted app, of send and receive are not requests'),
    ('fastapi-native-routes', map(), map('http.route', ''), '', 'server', 'fastapi', 'http_request', map('call', 'one'),
        'requests that met a route, by the spans of FastAPI itself; not together with fastapi-routes, if apps are mounted'),
    ('celery-tasks', map('celery.state', 'SUCCESS'), map(), 'run/', 'consumer', 'opentelemetry.instrumentation.celery', 'task_run', map('call', 'one'),
        'tasks that succeeded, once however often they were tried; without celery.state every attempt counts'))
WHERE rule_id NOT IN (SELECT rule_id FROM credit_rules);
