-- The instrumentations whose token counts are known, each measured against what the provider's response said (docs/emitters.md), one
-- row a convention. Only these are charged automatically (OTEL_CREDITS_CHARGE_GENAI=on). A row that is already there is not repeated.
--
-- Providers: Anthropic's usage.input_tokens leaves out what was read from the cache and written to it
-- (https://platform.claude.com/docs/en/build-with-claude/prompt-caching), OpenAI's prompt_tokens include cached_tokens, and prompts
-- below 1024 tokens are never cached (https://platform.openai.com/docs/guides/prompt-caching); both count reasoning as output.
INSERT INTO credit_conventions (scope_name, version_from, version_until, provider, input_attribute, output_attribute, cache_read_attribute,
    cache_write_attribute, cache_write_1h_attribute, reasoning_attribute, input_audio_attribute, output_audio_attribute, input_includes_cache,
    cache_unknown_from, model_attribute, request_model_attribute, response_id_attribute, request_service_tier_attribute, answers_attribute,
    earlier_calls_attribute, price_attributes, total_attribute, count_attribute, finish_attribute, service_tier_attribute, stream_attributes, stream_order, stream_flaw, preference, source)
WITH
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_write.input_tokens',
        '', 'gen_ai.usage.reasoning.output_tokens', '', '') AS official,
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_creation.input_tokens',
        '', 'gen_ai.usage.reasoning_tokens', '', '') AS traceloop,
    ('gen_ai.usage.prompt_tokens', 'gen_ai.usage.completion_tokens', 'gen_ai.usage.cache_read_input_tokens', 'gen_ai.usage.cache_creation_input_tokens',
        '', '', '', '') AS old_traceloop,
    ('llm.token_count.prompt', 'llm.token_count.completion', 'llm.token_count.prompt_details.cache_read', 'llm.token_count.prompt_details.cache_write',
        '', 'llm.token_count.completion_details.reasoning', 'llm.token_count.prompt_details.audio', 'llm.token_count.completion_details.audio') AS openinference,
    ('gen_ai.response.model', 'gen_ai.request.model') AS official_models,
    -- The response id, the tier that was asked for, how many answers there were, calls before the last, what else sets a price, the total, a mere count.
    -- What Anthropic does of its own accord within a call (compaction, an advisor), it counts beside the call, as an iteration.
    ('gen_ai.response.id', 'openai.request.service_tier', '', '', []::Array(String), '', '') AS official_told,
    ('gen_ai.response.id', 'openai.request.service_tier', '', 'anthropic.usage.compaction.input_tokens', []::Array(String), '', '') AS anthropic_told,
    ('output.value#/id', 'llm.invocation_parameters#/service_tier', '', '', []::Array(String), 'output.value#/usage/total_tokens', '') AS openinference_told,
    ('output.value#/id', 'llm.invocation_parameters#/service_tier', '', 'output.value#/usage/iterations/1',
        ['output.value#/usage/speed', 'output.value#/usage/inference_geo'], '', 'output.value#/input_tokens') AS openinference_anthropic_told,
    'gen_ai.response.finish_reasons' AS finish
SELECT scope, since, until, provider, names.1, names.2, names.3, names.4, hour, names.6, names.7, names.8, includes, unknown_from, models.1, models.2,
    told.1, told.2, told.3, told.4, told.5, told.6, told.7, finished_by, tier, streams, stream_order, flaw, preference, source
FROM
(
    SELECT arrayJoin([
        -- The SDK itself, and the official line.
        ('com.anthropic.sdk.python', '', '', '', (official.1, official.2, official.3, official.4, '', official.6, '', ''),
            'anthropic.usage.cache_creation.ephemeral_1h_input_tokens', true, 512, official_models, anthropic_told, 'anthropic.message.stop_reason',
            'anthropic.response.service_tier', []::Array(String), []::Array(String), '', 1,
            'the spans of anthropic 2.12.0 itself, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input'),
        ('opentelemetry.instrumentation.genai.anthropic', '', '', '', official, '', true, 0, official_models, official_told, finish, '', [], [], '', 2,
            'opentelemetry-instrumentation-genai-anthropic 1.3b0 with anthropic 2.12.0, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input'),
        ('opentelemetry.instrumentation.genai.openai', '', '', '', official, '', true, 0, official_models, official_told,
            finish, 'openai.response.service_tier', [], [], '', 2,
            'opentelemetry-instrumentation-genai-openai 1.3b0 with openai 3.54.0, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input, reasoning is part of output'),
        ('opentelemetry.instrumentation.genai.langchain', '', '', 'openai', official, '', true, 0, official_models, official_told,
            '', 'openai.response.service_tier', [], [], '', 6,
            'opentelemetry-instrumentation-genai-langchain 1.3b0 over openai 3.54.0, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input'),
        -- openai-v2 in both modes. It reports no cached tokens, so a prompt that may have had some cannot be priced.
        ('opentelemetry.instrumentation.openai_v2', '', '', '', (official.1, official.2, official.3, official.4, '', '', '', ''), '', true, 1024, official_models, official_told,
            '', 'gen_ai.openai.response.service_tier', [], [], '', 3,
            'opentelemetry-instrumentation-openai-v2 2.4b0 with openai 2, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input, and no cached tokens'),
        ('opentelemetry.util.genai.handler', '', '', 'openai', (official.1, official.2, official.3, official.4, '', '', '', ''), '', true, 1024, official_models, official_told,
            '', 'openai.response.service_tier', [], [], '', 3,
            'opentelemetry-instrumentation-openai-v2 2.4b0 with opentelemetry-util-genai 0.4b0 (gen_ai_latest_experimental), measured 2026-11-22: as openai_v2'),
        -- OpenInference.
        ('openinference.instrumentation.anthropic', '', '0.1.14', '', openinference, '', false, 1, ('llm.model_name', ''), openinference_anthropic_told,
            '', 'output.value#/usage/service_tier', [], [], '', 3,
            'openinference-instrumentation-anthropic 0.1.8, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 137 input and no cached tokens (its changelog: included since 0.1.14)'),
        ('openinference.instrumentation.anthropic', '1.1.1', '', '', openinference,
            'output.value#/usage/cache_creation/ephemeral_1h_input_tokens', true, 0, ('llm.model_name', 'llm.request.model_name'), openinference_anthropic_told,
            'llm.finish_reason',
            'output.value#/usage/service_tier', [], [], '', 3,
            'openinference-instrumentation-anthropic 3.1.0, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input (its changelog: cached tokens of streams since 1.1.1, finish reasons since 1.1.0)'),
        ('openinference.instrumentation.openai', '', '', '', openinference, '', true, 1024, ('llm.model_name', 'embedding.model_name'), openinference_told,
            '', 'output.value#/service_tier', [], [], '', 3,
            'openinference-instrumentation-openai 0.1.66 and 0.1.18 (which reports no cached tokens), measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input'),
        ('openinference.instrumentation.langchain', '', '', 'openai', (openinference.1, openinference.2, openinference.3, '', '', openinference.6, openinference.7, openinference.8), '', true, 1024, ('llm.model_name', 'embedding.model_name'),
            ('output.value#/llm_output/id', openinference_told.2, '', '', [], '', ''),
            '', 'output.value#/llm_output/service_tier', [], [], '', 7,
            'openinference-instrumentation-langchain 0.1.80 over openai 3.54.0, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input'),
        -- OpenLLMetry. Of a stream from Anthropic it adds the first event's placeholder, and each further delta, to the output; what
        -- messages.stream() makes has no mark but the order in which its attributes were set.
        ('opentelemetry.instrumentation.anthropic', '0.62', '', '', (traceloop.1, traceloop.2, traceloop.3, traceloop.4, '', '', '', ''), '', true, 512, official_models, official_told,
            finish, '', ['gen_ai.is_streaming'], ['gen_ai.response.model', 'gen_ai.usage.input_tokens'], 'output', 4,
            'opentelemetry-instrumentation-anthropic 0.62.4 with anthropic 2.12.0, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input; output of streams is 1 to 34 too high'),
        ('opentelemetry.instrumentation.anthropic', '0.33.5', '0.34', '', old_traceloop, '', true, 0, official_models, official_told,
            'gen_ai.response.model', '', ['llm.is_streaming'],
            ['gen_ai.response.model', 'gen_ai.usage.prompt_tokens'], 'output', 4,
            'opentelemetry-instrumentation-anthropic 0.33.12, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 2697 input; so does 0.33.5, but 0.33.1 leaves them out'),
        ('opentelemetry.instrumentation.openai.v1', '0.62', '', '', (traceloop.1, traceloop.2, traceloop.3, '', '', traceloop.6, '', ''), '', true, 1024, official_models, official_told,
            '', 'openai.response.service_tier', [], [], '', 4,
            'opentelemetry-instrumentation-openai 0.62.4 with openai 3.54.0, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input; tokens written to the cache are reported as input'),
        ('opentelemetry.instrumentation.openai.v1', '0.33', '0.34', '', old_traceloop, '', true, 1024, official_models, official_told, '', '', [], [], '', 4,
            'opentelemetry-instrumentation-openai 0.33.12, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input, and no cached tokens'),
        ('opentelemetry.instrumentation.langchain', '0.62', '', 'openai', traceloop, '', true, 1024, official_models, (official_told.1, official_told.2, 'gen_ai.output.messages#', '', [], '', ''),
            '', '', [], [], '', 8,
            'opentelemetry-instrumentation-langchain 0.62.4 over openai 3.54.0, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input'),
        -- OpenLIT. Of streams it loses cached tokens (Anthropic: as 0; OpenAI: no attribute), and where the provider sent no usage it
        -- invents some.
        ('openlit.instrumentation.anthropic', '', '', '', (traceloop.1, traceloop.2, traceloop.3, traceloop.4, '', '', '', ''), '', false, 1, official_models, official_told,
            finish,
            '', ['gen_ai.request.stream', 'gen_ai.request.is_stream'], [], 'cache_zero', 5,
            'openlit 1.44.0 with anthropic 0.125, measured 2026-11-22: 137 input, 2048 read and 512 written are reported as 137 input'),
        ('openlit.instrumentation.openai', '', '', '', traceloop, '', true, 1024, official_models, official_told,
            '', 'openai.response.service_tier', ['gen_ai.request.stream', 'gen_ai.request.is_stream'], [],
            'cache_absent', 5,
            'openlit 1.44.0 with openai 2.54, measured 2026-11-22: 164 input and 1024 cached are reported as 1188 input; a stream without usage is reported as 4 input, 8 output')
    ]) AS row,
    row.1 AS scope, row.2 AS since, row.3 AS until, row.4 AS provider, row.5 AS names, row.6 AS hour, row.7 AS includes, row.8 AS unknown_from, row.9 AS models,
    row.10 AS told, row.11 AS finished_by, row.12 AS tier, row.13 AS streams, row.14 AS stream_order, row.15 AS flaw, row.16 AS preference, row.17 AS source
)
WHERE (scope, since) NOT IN (SELECT scope_name, version_from FROM credit_conventions);
