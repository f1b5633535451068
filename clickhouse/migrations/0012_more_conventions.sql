-- Further instrumentations whose token counts are known, measured on 2026-11-25 like those of 0008 (docs/emitters.md; the recordings are
-- in tests/recordings/more). A row that is already there is not repeated.
--
-- Providers: Gemini's promptTokenCount includes cachedContentTokenCount, and its candidatesTokenCount leaves out thoughtsTokenCount, which
-- is billed as output (https://ai.google.dev/api/generate-content#UsageMetadata). Bedrock's inputTokens leave out what was read from the
-- cache and written to it (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html).
INSERT INTO credit_conventions (scope_name, version_from, version_until, provider, input_attribute, output_attribute, cache_read_attribute, cache_write_attribute,
    cache_write_1h_attribute, reasoning_attribute, input_audio_attribute, output_audio_attribute, input_includes_cache, cache_unknown_from, model_attribute,
    request_model_attribute, response_id_attribute, request_service_tier_attribute, earlier_calls_attribute, price_attributes, total_attribute, finish_attribute, service_tier_attribute,
    several_calls, preference, source)
WITH
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_write.input_tokens',
        '', 'gen_ai.usage.reasoning.output_tokens', '', '') AS official,
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_creation.input_tokens',
        '', 'gen_ai.usage.reasoning_tokens', '', '') AS traceloop,
    ('llm.token_count.prompt', 'llm.token_count.completion', 'llm.token_count.prompt_details.cache_read', 'llm.token_count.prompt_details.cache_write',
        '', 'llm.token_count.completion_details.reasoning', 'llm.token_count.prompt_details.audio', 'llm.token_count.completion_details.audio') AS openinference,
    ('gen_ai.response.model', 'gen_ai.request.model') AS official_models,
    ('llm.model_name', 'embedding.model_name') AS openinference_models,
    -- The response id, the tier that was asked for, the calls before the last, what else sets a price, the total.
    ('gen_ai.response.id', 'openai.request.service_tier', '', []::Array(String), '') AS official_told,
    ('gen_ai.response.id', 'openai.request.service_tier', 'anthropic.usage.compaction.input_tokens', []::Array(String), '') AS anthropic_told,
    ('output.value#/id', 'llm.invocation_parameters#/service_tier', '', []::Array(String), 'output.value#/usage/total_tokens') AS openinference_told,
    'output.value#/generations/0/0/message/kwargs/usage_metadata/input_token_details/ephemeral_1h_input_tokens' AS langchain_hour,
    'gen_ai.response.finish_reasons' AS finish,
    '164 input, 2048 cached and 93 output, of which 64 thoughts, are reported as 2212 input and 93 output' AS gemini,
    '164 input, 1024 cached and 93 output, of which 64 reasoning, are reported as 1188 input and 93 output' AS openai,
    '137 input, 2048 read and 512 written are reported as 2697 input' AS included,
    '137 input, 2048 read and 512 written are reported as 137 input' AS apart
SELECT scope, since, until, provider, names.1, names.2, names.3, names.4, hour, names.6, names.7, names.8, includes, unknown_from, models.1, models.2,
    told.1, told.2, told.3, told.4, told.5, finished_by, tier, scope = 'opentelemetry.instrumentation.google_genai', preference,
    concat(package, ', measured 2026-11-25: ', said)
FROM
(
    SELECT arrayJoin([
        -- The Anthropic SDK's client of Bedrock.
        ('com.anthropic.sdk.python.bedrock', '', '', (official.1, official.2, official.3, official.4, '', official.6, '', ''),
            'anthropic.usage.cache_creation.ephemeral_1h_input_tokens', true, 512, official_models, anthropic_told, 'anthropic.message.stop_reason',
            'anthropic.response.service_tier', 1, 'the spans of anthropic 2.13.0 itself', included),
        -- Gemini.
        ('opentelemetry.instrumentation.google_genai', '1.3', 'gemini', (official.1, official.2, official.3, official.4, '', official.6,
                'gen_ai.usage.audio.input_tokens', 'gen_ai.usage.audio.output_tokens'),
            '', true, 0, official_models, official_told, finish, '', 2, 'opentelemetry-instrumentation-google-genai 1.3b0', gemini),
        ('openinference.instrumentation.google_genai', '1.4.14', 'google', openinference, '', true, 0, openinference_models,
            ('output.value#/response_id', openinference_told.2, 'output.value#/automatic_function_calling_history', [], ''),
            'llm.finish_reason', 'output.value#/service_tier', 3,
            'openinference-instrumentation-google-genai 1.4.14', gemini),
        -- Bedrock. OpenLLMetry and botocore lose cached tokens of InvokeModel, where they are on no attribute: a call that says nothing of a cache waits.
        ('openinference.instrumentation.bedrock', '0.1.61', 'aws', openinference,
            'output.value#/usage/cache_creation/ephemeral_1h_input_tokens', true, 512, openinference_models,
            (openinference_told.1, openinference_told.2, 'output.value#/usage/iterations/1', ['output.value#/usage/speed', 'output.value#/usage/inference_geo'], openinference_told.5),
            '', 'output.value#/usage/service_tier', 3,
            'openinference-instrumentation-bedrock 0.1.61, Converse', included),
        ('opentelemetry.instrumentation.bedrock', '0.62', 'aws.bedrock', traceloop, '', false, 1, official_models, official_told, '', '', 4,
            'opentelemetry-instrumentation-bedrock 0.62.4, Converse', apart),
        ('opentelemetry.instrumentation.botocore.bedrock-runtime', '0.66', 'aws.bedrock', traceloop, '', false, 1, official_models, official_told, '', '', 4,
            'opentelemetry-instrumentation-botocore 0.66b2, Converse', apart),
        ('opentelemetry.instrumentation.genai.bedrock', '1.3', 'aws.bedrock', official, '', false, 0, official_models, official_told, '', '', 2,
            'opentelemetry-instrumentation-genai-bedrock 1.3b0', apart),
        -- Agents. Their own spans repeat what the model's spans under them say, and are not usage.
        ('pydantic-ai', '2', 'openai', (official.1, official.2, official.3, official.4, '', 'gen_ai.usage.details.reasoning_tokens', '', ''), '', true, 1024,
            official_models, official_told, finish, '', 6, 'pydantic-ai-slim 2.68.0 over openai', openai),
        ('pydantic-ai', '2', 'anthropic', (official.1, official.2, official.3, official.4, '', '', '', ''),
            'gen_ai.usage.details.ephemeral_1h_input_tokens', true, 512, official_models, official_told, finish, '', 6,
            'pydantic-ai-slim 2.68.0 over anthropic', included),
        ('opentelemetry.instrumentation.openai_agents', '0.62', 'openai', (traceloop.1, traceloop.2, traceloop.3, '', '', traceloop.6, '', ''), '', true, 1024,
            official_models, official_told, finish, '', 6, 'opentelemetry-instrumentation-openai-agents 0.62.4', openai),
        ('openinference.instrumentation.openai_agents', '2.6', 'openai', openinference, '', true, 1024, openinference_models, openinference_told,
            'llm.finish_reason', 'output.value#/service_tier', 6,
            'openinference-instrumentation-openai-agents 2.6.0', openai),
        -- Logfire's own instrumentations. Of a stream they make two spans: one without usage, which waits, and one with it.
        ('logfire.openai', '5', 'openai', (official.1, official.2, official.3, '', '', '', '', ''), '', true, 1024, official_models, (official_told.1, official_told.2, '', [], 'gen_ai.usage.raw#/total_tokens'), '', '', 4,
            'logfire 5.4.0 with openai', openai),
        ('logfire.anthropic', '5', 'anthropic', traceloop, 'gen_ai.usage.raw#/cache_creation/ephemeral_1h_input_tokens', true, 0, official_models, 
            (official_told.1, official_told.2, 'gen_ai.usage.raw#/iterations/1', ['gen_ai.usage.raw#/speed', 'gen_ai.usage.raw#/inference_geo'], ''),
            finish, 'gen_ai.usage.raw#/service_tier', 4, 'logfire 5.4.0 with anthropic', included),
        -- LangChain over Bedrock and Gemini.
        ('opentelemetry.instrumentation.genai.langchain', '1.3', 'aws.bedrock', official, '', true, 0, official_models, official_told, '', '', 6,
            'opentelemetry-instrumentation-genai-langchain 1.3b0 over langchain-aws', included),
        ('opentelemetry.instrumentation.genai.langchain', '1.3', 'gcp.gen_ai', official, '', true, 0, official_models, official_told, '', '', 6,
            'opentelemetry-instrumentation-genai-langchain 1.3b0 over langchain-google-genai', gemini),
        ('openinference.instrumentation.langchain', '0.1.80', 'amazon_bedrock', openinference, langchain_hour, true, 512, openinference_models,
            ('output.value#/llm_output/id', openinference_told.2, '', [], ''),
            '', 'output.value#/llm_output/service_tier', 7,
            'openinference-instrumentation-langchain 0.1.80 over langchain-aws', included),
        ('openinference.instrumentation.langchain', '0.1.80', 'google', openinference, '', true, 512, openinference_models, ('output.value#/llm_output/id', openinference_told.2, '', [], ''),
            '', 'output.value#/llm_output/service_tier', 7,
            'openinference-instrumentation-langchain 0.1.80 over langchain-google-genai', gemini)
    ]) AS row,
    row.1 AS scope, row.2 AS since, row.3 AS provider, row.4 AS names, row.5 AS hour, row.6 AS includes, row.7 AS unknown_from, row.8 AS models,
    row.9 AS told, row.10 AS finished_by, row.11 AS tier, row.12 AS preference, row.13 AS package, row.14 AS said,
    -- logfire 6.0.0b8 reports no cached tokens.
    if(startsWith(scope, 'logfire.'), '6', '') AS until
)
WHERE (scope, since, provider) NOT IN (SELECT scope_name, version_from, provider FROM credit_conventions);

-- LangChain over Anthropic, Groq, Mistral, Cohere and LiteLLM, measured on 2026-11-28 by tests/recordings/record. A call that says nothing of
-- cached tokens, where its emitter always does, or where it never does and the provider may have cached some, waits (cache_unknown_from).
--
-- Providers: Groq's and Mistral's prompt_tokens include the cached ones, and neither bills what is written (https://console.groq.com/docs/prompt-caching,
-- https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching). Cohere bills billed_units
-- (https://docs.cohere.com/v2/docs/how-does-cohere-pricing-work.md).
INSERT INTO credit_conventions (scope_name, version_from, provider, input_attribute, output_attribute, cache_read_attribute, cache_write_attribute,
    cache_write_1h_attribute, reasoning_attribute, input_includes_cache, cache_unknown_from, model_attribute, request_model_attribute,
    response_id_attribute, service_tier_attribute, request_service_tier_attribute, earlier_calls_attribute, price_attributes, total_attribute, stream_attributes, stream_flaw, preference, source)
WITH
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_write.input_tokens',
        'gen_ai.usage.reasoning.output_tokens') AS official,
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', '', '') AS traceloop,
    ('gen_ai.usage.prompt_tokens', 'gen_ai.usage.completion_tokens', '', '', '') AS old_traceloop,
    ('llm.token_count.prompt', 'llm.token_count.completion', 'llm.token_count.prompt_details.cache_read', 'llm.token_count.prompt_details.cache_write',
        'llm.token_count.completion_details.reasoning') AS openinference,
    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', '', '', '') AS uncached,
    ('gen_ai.response.model', 'gen_ai.request.model') AS official_models,
    ('llm.model_name', 'embedding.model_name') AS openinference_models,
    -- The response id, the tier of the answer, the tier that was asked for, the hour-long cache writes, the calls before the last, what else sets a price,
    -- the total.
    ('gen_ai.response.id', '', 'openai.request.service_tier', '', '', []::Array(String), '') AS official_told,
    ('output.value#/id', 'output.value#/service_tier', 'llm.invocation_parameters#/service_tier', '', '', []::Array(String), 'output.value#/usage/total_tokens')
        AS openinference_told,
    ('output.value#/llm_output/id', 'output.value#/llm_output/usage/service_tier', 'llm.invocation_parameters#/service_tier',
        'output.value#/llm_output/usage/cache_creation/ephemeral_1h_input_tokens', 'output.value#/llm_output/usage/iterations/1',
        ['output.value#/llm_output/usage/speed', 'output.value#/llm_output/usage/inference_geo'], '') AS langchain_told,
    '164 input, 1024 cached and 93 output are reported as 1188 input and 93 output' AS included,
    '137 input, 2048 read and 512 written are reported as 2697 input' AS written,
    ', of a stream as 2697 or 5394' AS twice
SELECT scope, since, provider, names.1, names.2, names.3, names.4, told.4, names.5, true, unknown_from, models.1, models.2, told.1, told.2, told.3, told.5, told.6, told.7, streams, flaw, preference,
    concat(package, ', measured 2026-11-28: ', said)
FROM
(
    SELECT arrayJoin([
        ('opentelemetry.instrumentation.groq', '0.62', 'groq', traceloop, 1, official_models, official_told,
            []::Array(String), '', 4, 'opentelemetry-instrumentation-groq 0.62.4', included),
        ('openinference.instrumentation.groq', '0.1.33', 'groq', openinference, 1, openinference_models, openinference_told, [], '', 3,
            'openinference-instrumentation-groq 0.1.33', concat(included, '; nothing of streams')),
        ('opentelemetry.instrumentation.mistralai', '0.62', 'mistralai', traceloop, 1, official_models, official_told, [], '', 4,
            'opentelemetry-instrumentation-mistralai 0.62.4', concat(included, '; nothing of embeddings')),
        ('openinference.instrumentation.mistralai', '2.2', 'mistralai', openinference, 1, openinference_models, openinference_told, [], '', 3,
            'openinference-instrumentation-mistralai 2.2.2', concat(included, ', and no cached tokens')),
        ('opentelemetry.instrumentation.cohere', '0.62', 'cohere', old_traceloop, 0, official_models, official_told, [], '', 4,
            'opentelemetry-instrumentation-cohere 0.62.4', '137 and 61 billed units are reported as 137 input and 61 output; nothing of embeddings'),
        -- OpenLIT. Its scopes name no version. By its source these count a stream's tokens from 0, and a stream without usage waits.
        ('openlit.instrumentation.groq', '', 'groq', traceloop, 1, official_models, official_told, [], '', 5, 'openlit 1.45.0 and 1.40.3 over groq 1.7.0', included),
        ('openlit.instrumentation.mistral', '', 'mistral_ai', traceloop, 1, official_models, official_told, [], '', 5,
            'openlit 1.45.0 and 1.40.3 over mistralai 1.12.4', included),
        ('openlit.instrumentation.cohere', '', 'cohere', traceloop, 1, official_models, official_told, [], '', 5,
            'openlit 1.45.0 and 1.40.3 over cohere 7.3.1', '137 and 61 billed units are reported as 137 input and 61 output'),
        -- LangChain adds up what each event of a stream from Anthropic says, though each says the sum: with langchain-anthropic before 0.3.19 the
        -- first and the last, later all of the message_delta events. Nothing tells it. OpenInference reports a total of streams only.
        ('opentelemetry.instrumentation.genai.langchain', '1.3', 'anthropic', official, 0, official_models, official_told, ['gen_ai.request.stream'], 'output', 6,
            'opentelemetry-instrumentation-genai-langchain 1.3b0 over langchain-anthropic 1.7.10 and 0.3.12', concat(written, twice)),
        ('openinference.instrumentation.langchain', '0.1.80', 'anthropic', openinference, 512, openinference_models, langchain_told,
            ['llm.token_count.total'], 'output', 7,
            'openinference-instrumentation-langchain 0.1.80 over langchain-anthropic 1.7.10 and 0.3.12', concat(written, twice)),
        -- LiteLLM counts as OpenAI does, whatever the provider. Its own callback reports no cached tokens, and of streams what the provider
        -- did not report is invented, or too low.
        ('openinference.instrumentation.litellm', '0.1.51', 'openai', openinference, 1, openinference_models, official_told, [], '', 7,
            'openinference-instrumentation-litellm 0.1.51 over OpenAI''s API', included),
        ('openinference.instrumentation.litellm', '0.1.51', 'anthropic', openinference, 1, openinference_models, official_told, [], '', 7,
            'openinference-instrumentation-litellm 0.1.51 over Anthropic''s API', concat(written, '; nothing of streams')),
        ('openinference.instrumentation.litellm', '0.1.51', 'mistralai', openinference, 1, openinference_models, official_told, [], '', 7,
            'openinference-instrumentation-litellm 0.1.51 over Mistral''s API', included),
        ('litellm', '', 'openai', uncached, 1024, official_models, official_told, ['llm.is_streaming'], 'cache_absent', 6,
            'the callback otel of litellm 1.110.2 over OpenAI''s API', concat(included, ', and no cached tokens; a stream without usage is reported as 8 input, 11 output')),
        ('litellm', '', 'anthropic', uncached, 512, official_models, official_told, ['llm.is_streaming'], 'cache_absent', 6,
            'the callback otel of litellm 1.110.2 over Anthropic''s API', concat(written, ', and no cached tokens; output of a stream with two counts is the first'))
    ]) AS row,
    row.1 AS scope, row.2 AS since, row.3 AS provider, row.4 AS names, row.5 AS unknown_from, row.6 AS models, row.7 AS told, row.8 AS streams, row.9 AS flaw,
    row.10 AS preference, row.11 AS package, row.12 AS said
)
WHERE (scope, since, provider) NOT IN (SELECT scope_name, version_from, provider FROM credit_conventions);
