-- The instrumentations whose token counts are known, each measured against what the provider's response said. Only
-- these are charged automatically (OTEL_CREDITS_CHARGE_GENAI=on). A scope that is already there is not touched.
INSERT INTO credit_conventions (scope_name, input_includes_cache, source)
SELECT scope_name, input_includes_cache, source
FROM values(
    'scope_name String, input_includes_cache Bool, source String',
    ('opentelemetry.instrumentation.genai.anthropic', true,
        'opentelemetry-instrumentation-genai-anthropic 1.3b0 with anthropic 2.12.0, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input'),
    ('com.anthropic.sdk.python', true,
        'the spans of anthropic 2.12.0 itself, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input'),
    ('opentelemetry.instrumentation.genai.openai', true,
        'opentelemetry-instrumentation-genai-openai 1.3b0 with openai 3.54.0, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input, reasoning is part of output'))
WHERE scope_name NOT IN (SELECT scope_name FROM credit_conventions);
