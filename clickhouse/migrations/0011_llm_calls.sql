-- The long way of a block through the chain (0004): LLM calls of other instrumentations, and spans that a billing rule matches.
--
--   usage_candidates -> other_candidates -> mixed_candidates
--   other_candidates -> json_candidates -> mixed_candidates    what emitters tell within JSON, if any does
--   mixed_candidates -> ruled_candidates                       what billing rules say
--   ruled_candidates -> readings                               what the attributes mean, by who emitted them
--   entangled_usages -> knowing_usages -> linked_usages        which of two spans of a call knows more of it, if any does
--   entangled_usages -> linked_usages -> compared_usages       whether two spans tell of one call
--
-- Nothing of it is planned for a block of usages that say themselves what they are.

CREATE TABLE IF NOT EXISTS other_candidates AS usage_candidates ENGINE = Null;
CREATE TABLE IF NOT EXISTS mixed_candidates AS usage_candidates ENGINE = Null;
CREATE TABLE IF NOT EXISTS json_candidates AS usage_candidates ENGINE = Null;
CREATE TABLE IF NOT EXISTS ruled_candidates AS mixed_candidates ENGINE = Null;
ALTER TABLE ruled_candidates
    ADD COLUMN IF NOT EXISTS rule_action String COMMENT 'what the rule makes of the span',
    ADD COLUMN IF NOT EXISTS rule_quantities Map(String, String) COMMENT 'unit to quantity, by the rule, as text';
CREATE TABLE IF NOT EXISTS knowing_usages AS rated_usages ENGINE = Null;
CREATE TABLE IF NOT EXISTS linked_usages AS rated_usages ENGINE = Null;
ALTER TABLE linked_usages ADD COLUMN IF NOT EXISTS overruled Bool COMMENT 'another span knows more of the call, which is charged, or waits, as that one tells it';

CREATE MATERIALIZED VIEW IF NOT EXISTS other_candidates_mv TO other_candidates AS
SELECT * FROM usage_candidates
WHERE (
    SELECT countIf(charge_genai OR NOT mapContains(attributes, 'credits.action_type') OR scope_name IN (SELECT scope_name FROM credit_conventions))
    FROM usage_candidates) > 0;

-- What emitters tell within JSON becomes attributes of the names that credit_conventions has for it. Nothing of this is planned for a
-- block without such emitters. A replay brings what was read before.
CREATE MATERIALIZED VIEW IF NOT EXISTS mixed_candidates_mv TO mixed_candidates AS
SELECT * FROM other_candidates
WHERE (
    SELECT countIf(charge_genai AND scope_name IN (SELECT scope_name FROM credit_conventions WHERE notEmpty(json_attributes)))
    FROM other_candidates) = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS json_candidates_mv TO json_candidates AS
SELECT * FROM other_candidates
WHERE (
    SELECT countIf(charge_genai AND scope_name IN (SELECT scope_name FROM credit_conventions WHERE notEmpty(json_attributes)))
    FROM other_candidates) > 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS json_read_mv TO mixed_candidates AS
WITH
    (
        SELECT (groupArray(scope_name), groupArray(places))
        FROM (SELECT scope_name, groupUniqArrayArray(json_places) AS places FROM credit_conventions GROUP BY scope_name)
    ) AS known
SELECT
    * EXCEPT (places, found)
        REPLACE (mapUpdate(mapFromArrays(places.1, arrayMap(json -> multiIf(
            startsWith(json, '"'), JSONExtractString(json),
            startsWith(json, '['), concat('[', toString(JSONLength(json)), ']'),
            startsWith(json, '{'), concat('{', toString(JSONLength(json)), '}'),
            json = 'null', '',
            json), found)), attributes) AS attributes)
FROM
(
    SELECT
        *,
        -- Of what a billing rule alone may make a usage, nothing is read.
        if(charge_genai AND ask_rules AND (hasAny(mapKeys(attributes), ['gen_ai.operation.name', 'openinference.span.kind', 'llm.request.type'])
                OR arrayExists(key -> position(key, 'oken') > 0, mapKeys(attributes))),
            known.2[indexOf(known.1, scope_name)], []) AS places,
        -- OpenInference says of a value whether it is JSON; if not, it is what the model said.
        arrayMap(place -> arrayFold((json, step) -> multiIf(
                NOT startsWith(json, '['), JSONExtractRaw(json, step),
                match(step, '^(0|[1-9][0-9]{0,8})$'), JSONExtractRaw(json, toInt64OrZero(step) + 1),
                ''),
            place.4, if(place.3 = '' OR attributes[place.3] = 'application/json', JSONExtractRaw(attributes[place.2]), '')), places) AS found
    FROM json_candidates
);

-- Billing rules: the first that matches the span. A span that says itself what it is, is asked about none. Spans that are neither
-- usage by a rule nor a candidate without one (the condition of span_candidates_mv) end here.
CREATE MATERIALIZED VIEW IF NOT EXISTS ruled_candidates_mv TO ruled_candidates AS
WITH
    -- The rules that were in force when the oldest request of the block was received, or came after it.
    (
        SELECT arraySort(rule -> (rule.priority, rule.id), groupArray(rule)) FROM rules_in_force
        WHERE until_us > (SELECT min(toUnixTimestamp64Micro(received_at)) FROM mixed_candidates)
    ) AS rules
SELECT
    * EXCEPT (received_us, matching, rule_number, rule, seconds)
        REPLACE (
            if(rule_number = 0, rule_id, rule.id) AS rule_id,
            arrayConcat(double_keys, arrayFilter(key -> key != '', arrayMap((unit, source) ->
                if(startsWith(source, 'attribute:') AND has(double_keys, substring(source, 11)), concat('credits.units.', unit), ''),
                rule.units, rule.sources))) AS double_keys),
    rule.action AS rule_action,
    mapFromArrays(rule.units, arrayMap(source -> multiIf(
        source = 'one', '1',
        source = 'seconds', seconds,
        attributes[substring(source, 11)]), rule.sources)) AS rule_quantities
FROM
(
    SELECT
        *,
        if(matching != 0 AND (status_code != 2 OR rules[matching].charge_failed), matching, 0) AS rule_number,
        rules[rule_number] AS rule,
        -- Seconds to the nanosecond. A span without a start has none; one that ends before it starts has negative ones.
        if(start_time_unix_nano < 946684800000000000, '', concat(if(end_time_unix_nano < start_time_unix_nano, '-', ''),
            toString(intDiv(greatest(start_time_unix_nano, end_time_unix_nano) - least(start_time_unix_nano, end_time_unix_nano), 1000000000)), '.',
            leftPad(toString((greatest(start_time_unix_nano, end_time_unix_nano) - least(start_time_unix_nano, end_time_unix_nano)) % 1000000000), 9, '0'))) AS seconds
    FROM
    (
        SELECT
            *,
            toUnixTimestamp64Micro(received_at) AS received_us,
            if(ask_rules AND NOT mapContains(attributes, 'credits.action_type'),
                arrayFirstIndex(rule -> rule.from_us <= received_us AND rule.until_us > received_us
                    AND rule.kind IN (0, kind) AND rule.status IN (0, status_code + 1)
                    AND rule.scope IN ('', scope_name) AND rule.service IN ('', service_name)
                    AND rule.name IN ('', name) AND startsWith(name, rule.name_prefix)
                    AND arrayAll((key, text) -> mapContains(attributes, key) AND attributes[key] = text, rule.keys, rule.texts)
                    AND arrayAll((key, prefix) -> mapContains(attributes, key) AND startsWith(attributes[key], prefix), rule.prefix_keys, rule.prefixes),
                    rules), 0) AS matching
        FROM mixed_candidates
    )
)
WHERE NOT ask_rules
    OR rule_number != 0
    OR mapContains(attributes, 'credits.action_type')
    OR (charge_genai AND (mapContains(attributes, 'gen_ai.operation.name') OR mapContains(attributes, 'openinference.span.kind')
        OR mapContains(attributes, 'llm.request.type') OR arrayExists(key -> position(key, 'oken') > 0, mapKeys(attributes))));

-- Spans that only a billing rule made candidates: other_spans_mv (0005) counted them too, so they are taken off. Rules are asked
-- once, so that no span can be both; a replay brings no rule_action.
CREATE MATERIALIZED VIEW IF NOT EXISTS ruled_spans_mv TO ingest_outcomes AS
SELECT receiver, 'span' AS signal, 'not_usage' AS outcome, '' AS reason, -toInt64(count()) AS items
FROM ruled_candidates
WHERE rule_action != ''
    AND NOT (charge_genai AND (mapContains(attributes, 'gen_ai.operation.name') OR mapContains(attributes, 'openinference.span.kind')
        OR mapContains(attributes, 'llm.request.type') OR arrayExists(key -> position(key, 'oken') > 0, mapKeys(attributes))))
GROUP BY receiver;

CREATE MATERIALIZED VIEW IF NOT EXISTS mixed_readings_mv TO readings AS
WITH
    -- The rows of credit_conventions that apply in this block: the first is how an explicit usage is read, the others are found by
    -- the hash of scope, version and provider.
    (
        SELECT tuple(
            groupArray(key),
            arrayMap(number -> toUInt16(number), range(1, toUInt64(count() + 1))),
            groupArray(rule)::Array(Tuple(input String, output String, cache_read String, cache_write String, reasoning String, cache_write_1h String,
                input_audio String, output_audio String, input_includes_cache Bool, cache_unknown_from UInt64, model String, request_model String,
                response_id String, finish String, service_tier String, request_service_tier String, answers String, streams Array(String),
                stream_order Array(String), stream_flaw String, several_calls Bool, earlier_calls String, preference UInt8, json Array(String),
                prices Array(String), total String, count String)))
        FROM
        (
            SELECT * FROM
            (
                SELECT
                    key,
                    argMax((input_attribute, output_attribute, cache_read_attribute, cache_write_attribute, reasoning_attribute, cache_write_1h_attribute,
                            input_audio_attribute, output_audio_attribute, input_includes_cache, cache_unknown_from, model_attribute,
                            request_model_attribute, response_id_attribute, finish_attribute, service_tier_attribute, request_service_tier_attribute,
                            answers_attribute, stream_attributes, stream_order, toString(stream_flaw), several_calls, earlier_calls_attribute,
                            preference, json_attributes, price_attributes, total_attribute, count_attribute),
                        (arrayMap(part -> toUInt32OrZero(part), extractAll(version_from, '[0-9]+')), r.provider != '')) AS rule
                FROM
                (
                    SELECT DISTINCT
                        scope_name,
                        scope_version,
                        lower(firstNonDefault(attributes['gen_ai.provider.name'], attributes['gen_ai.system'], attributes['llm.provider'], attributes['llm.system'])) AS provider,
                        cityHash64(scope_name, scope_version, provider) AS key,
                        arrayMap(part -> toUInt32OrZero(part), extractAll(scope_version, '[0-9]+')) AS version
                    FROM ruled_candidates
                ) AS seen
                INNER JOIN (SELECT *, json_attributes FROM credit_conventions ORDER BY created_at DESC LIMIT 1 BY scope_name, version_from, provider) AS r
                    ON r.scope_name = seen.scope_name
                WHERE r.enabled AND r.provider IN ('', seen.provider)
                    AND version >= arrayMap(part -> toUInt32OrZero(part), extractAll(version_from, '[0-9]+'))
                    AND (version_until = '' OR version < arrayMap(part -> toUInt32OrZero(part), extractAll(version_until, '[0-9]+')))
                GROUP BY key
                UNION ALL
                SELECT
                    toUInt64(0) AS key,
                    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_write.input_tokens',
                        'gen_ai.usage.reasoning.output_tokens', '', '', '', true, toUInt64(0), 'gen_ai.response.model', 'gen_ai.request.model',
                        'gen_ai.response.id', '', '', '', '', []::Array(String), []::Array(String), '', false, '', toUInt8(9), []::Array(String), []::Array(String), '', '') AS rule
            )
            ORDER BY key
        )
    ) AS rules,
    -- Spans of which one may be of several calls: where they stand, and below which of them a tool was executed in an earlier insert.
    places_of_several AS
    (
        SELECT reinterpretAsUUID(sipHash128('tool', trace_id, span_id, toUInt64(0), toUInt64(0))) AS place FROM ruled_candidates
        WHERE charge_genai AND scope_name IN (SELECT scope_name FROM credit_conventions WHERE several_calls)
    )
SELECT
    * EXCEPT (explicit, provider, operation, kind_of_span, kind_of_request, rule, how, inference, embedding, unmarked, automatic, ruled, bare, tokens,
        input_tokens, quarter, response_id_sent, finished, streamed, tier, total, tier_said, prices_said, last_call_only, executed,
        sound_cached, tier_untold, tier_answered, weight, knows, overrules, rule_action, rule_quantities),
    if(explicit OR ruled, attributes['credits.action_type'], 'ai_call') AS action_type,
    -- Another service tier than the standard one is part of each unit's name, so that it has prices of its own or none.
    arrayMap(unit -> if(unit = 'reasoning_token', unit, concat(unit, tier)), ['input_token', 'output_token', 'cache_read_token', 'cache_write_token',
        'reasoning_token', 'cache_write_1h_token', 'input_audio_token', 'output_audio_token']) AS token_units,
    multiIf(
        NOT explicit AND NOT ruled AND NOT automatic AND NOT bare, 'not_usage',
        bare OR (automatic AND rule = 1), 'unknown_convention',
        NOT automatic, '',
        -- It came before there was this row, and nothing of its JSON was kept.
        notEmpty(how.json) AND NOT arrayAll(name -> mapContains(attributes, name), how.json), 'usage_unknown',
        -- There is no call without a prompt.
        token_texts[1] = '' OR (token_texts[2] = '' AND NOT embedding) OR input_tokens = 0, 'usage_unknown',
        NOT embedding AND NOT finished, 'usage_unknown',
        -- An emitter that leaves out a part of the output says so in its total.
        total != '' AND toUInt64OrZero(total) NOT IN (tokens[1] + tokens[2], input_tokens + tokens[2]), 'tokens_inconsistent',
        -- Sound and pictures have prices of their own. Where sound is counted, that among the cached tokens is not, nor are pictures.
        match(model, if(how.input_audio = '', 'audio|realtime|transcribe|tts|image', 'image'))
            OR sound_cached, 'modality_unknown',
        tier_untold, 'emitter_unreliable',
        streamed AND (how.stream_flaw = 'output' OR (how.stream_flaw = 'cache_zero' AND tokens[3] + tokens[4] = 0)
            OR (how.stream_flaw = 'cache_absent' AND token_texts[3] = '')),
            'emitter_unreliable',
        last_call_only, 'emitter_unreliable',
        -- Of a provider that counts reasoning beside the output, the output is not all of it.
        tokens[5] > tokens[2], 'tokens_inconsistent',
        NOT embedding AND how.answers != '' AND attributes[how.answers] NOT IN ('1', '[1]'), 'emitter_unreliable',
        NOT embedding AND how.cache_unknown_from > 0 AND input_tokens >= how.cache_unknown_from
            -- From GPT-5.6 on OpenAI bills what it writes to the cache.
            AND (token_texts[3] = '' OR (token_texts[4] = '' AND match(model, '(^|/)gpt-(5[.][6-9]|[6-9])'))), 'cache_unknown',
        '') AS verdict,
    if(explicit OR ruled, 0, 1099511627776 * (1 + how.preference)) + position AS preference,
    -- Where a call stands: what other spans of the same call, which may have no response id, are recognised by. A span asks, and
    -- what is charged answers (for certain), or doubts and claims (perhaps); later is kept for other inserts only.
    -- What is charged within the span of an explicit usage is found again by the place that both keep (voids.py).
    -- A span that overrules is met by those that know less of the call: by its response id, as a parent or child that has to ask since it
    -- has none, or, where the one that overrules has none, as any parent or child.
    if(charge_genai AND ((signal = 'span' AND (automatic OR bare OR executed)) OR (explicit AND rule_id = ''
            AND (response_id != '' OR (signal = 'span' AND token_texts[1] != '')))),
        arrayConcat(if(knows = 0, [], [(concat('knows ', toString(knows)), toUUID('00000000-0000-0000-0000-000000000000'))]),
            if(overrules = '' OR response_id = '', [], [(overrules, reinterpretAsUUID(sipHash128('response', response_id)))]),
            arrayMap(link -> (link.1, reinterpretAsUUID(sipHash128(link.2, link.3, link.4, link.5, link.6))), multiIf(
            executed AND NOT explicit, [('executes', 'tool', trace_id, parent_span_id, toUInt64(0), toUInt64(0))],
            explicit AND (signal != 'span' OR token_texts[1] = ''), [('replaces', 'response', response_id, '', toUInt64(0), toUInt64(0))],
            bare, [('asks', 'parent', trace_id, span_id, toUInt64(0), toUInt64(0))],
            explicit, [
                ('encloses', 'inside', trace_id, span_id, toUInt64(0), toUInt64(0)),
                ('answers', 'parent', trace_id, parent_span_id, 0, 0),
                ('answers', 'around', trace_id, span_id, 0, 0),
                ('doubts', 'copy beside', trace_id, parent_span_id, input_tokens, tokens[2]),
                ('claims', 'beside', trace_id, parent_span_id, input_tokens, tokens[2])],
            arrayConcat(
                if(response_id != '', [
                    ('answers', 'below', trace_id, span_id, input_tokens, tokens[2]),
                    -- Within an insert it is preferred to a call without an id. One that was charged before stays charged.
                    ('doubts', 'when without id', service_name, toString(quarter - 1), input_tokens, tokens[2]),
                    ('doubts', 'when without id', service_name, toString(quarter), input_tokens, tokens[2]),
                    ('doubts', 'when without id', service_name, toString(quarter + 1), input_tokens, tokens[2])], [
                    ('later', 'when without id', service_name, toString(quarter), input_tokens, tokens[2]),
                    ('asks', 'above', trace_id, span_id, input_tokens, tokens[2]),
                    ('asks', 'below', trace_id, parent_span_id, input_tokens, tokens[2]),
                    ('doubts', 'when', service_name, toString(quarter - 1), input_tokens, tokens[2]),
                    ('doubts', 'when', service_name, toString(quarter), input_tokens, tokens[2]),
                    ('doubts', 'when', service_name, toString(quarter + 1), input_tokens, tokens[2])]),
                [
                    ('asks', 'around', trace_id, parent_span_id, 0, 0),
                    ('answers', 'parent', trace_id, parent_span_id, 0, 0),
                    ('answers', 'above', trace_id, parent_span_id, input_tokens, tokens[2]),
                    ('doubts', 'beside', trace_id, parent_span_id, input_tokens, tokens[2]),
                    ('doubts', 'beside', trace_id, parent_span_id, toUInt64(greatest(toInt64(input_tokens) - toInt64(tokens[3] + tokens[4]), 0)), tokens[2]),
                    ('claims', 'when', service_name, toString(quarter), input_tokens, tokens[2]),
                    ('later', 'below', trace_id, span_id, input_tokens, tokens[2]),
                    ('within', 'inside', trace_id, parent_span_id, 0, 0),
                    ('later', 'copy beside', trace_id, parent_span_id, input_tokens, tokens[2])],
                multiIf(
                    overrules = '', [],
                    response_id != '', [
                        (concat(overrules, ' asks'), 'above', trace_id, parent_span_id, input_tokens, tokens[2]),
                        (concat(overrules, ' asks'), 'below', trace_id, span_id, input_tokens, tokens[2])],
                    [
                        (overrules, 'above', trace_id, span_id, input_tokens, tokens[2]),
                        (overrules, 'below', trace_id, parent_span_id, input_tokens, tokens[2])]),
                if(last_call_only, [('executes', 'tool', trace_id, parent_span_id, 0, 0)], []))))),
        []) AS links
FROM
(
    SELECT
        -- A span that a billing rule matches is read as if it said so itself: the rule's action and quantities, and of its own
        -- attributes who pays and what is shown. An LLM call that is charged anyway is not asked about rules. What the spans below told
        -- becomes an attribute, as a replay comes without them.
        * REPLACE (
            if(NOT ruled, if(last_call_only, mapUpdate(attributes, map('credits.read.several_calls', 'true')), attributes), mapUpdate(mapUpdate(map('credits.description', name),
                mapFilter((key, text) -> startsWith(key, 'credits.metadata.') OR startsWith(key, 'user.') OR has(user_attributes, key)
                    OR key IN ('credits.user_id', 'enduser.id', 'credits.description', 'credits.resource_id', 'credits.resource_type',
                        'gen_ai.request.model', 'gen_ai.response.model', 'credits.seq', 'service.instance.id'), attributes)),
                mapUpdate(map('credits.action_type', rule_action),
                    mapFromArrays(arrayMap(unit -> concat('credits.units.', unit), mapKeys(rule_quantities)), mapValues(rule_quantities))))) AS attributes,
            if(automatic, '', rule_id) AS rule_id,
            if(ruled, [], token_texts) AS token_texts,
            if(ruled, [], number_texts) AS number_texts),
        -- An id that is shorter than any provider's may be one that a server repeats: it tells nothing.
        if(ruled OR length(response_id_sent) < 16, '', response_id_sent) AS response_id
    FROM
    (
        SELECT
            *,
            rule_id != '' AND NOT explicit AND NOT automatic AS ruled,
            -- Counts of tokens on a span that says neither that it is an LLM call nor that it is something else.
            if(charge_genai AND NOT explicit AND NOT automatic AND NOT ruled AND attributes[how.count] = '' AND (unmarked OR operation NOT IN ('', 'invoke_agent', 'create_agent',
                    'invoke_workflow', 'execute_tool', 'execute_task', 'retrieval', 'rerank', 'plan')),
                arrayExists((key, value) -> match(value, '^[0-9]+$') AND position(key, 'count_tokens') = 0
                    AND match(key, '(?i)(usage|^llm[.]token_count|input|output|prompt|completion|total).*tokens?|^llm[.]token_count|tokens?[._](input|output|prompt|completion|total|(in|out|used|usage|count)([._]|$))'),
                    mapKeys(attributes), mapValues(attributes)),
                false) AS bare,
            arrayMap(text -> least(toUInt64OrZero(text), 1000000000000), token_texts) AS tokens,
            if(cache_apart, tokens[1] + tokens[3] + tokens[4], tokens[1]) AS input_tokens,
            intDiv(end_time_unix_nano, 250000000) AS quarter,
            how.input_audio != '' AND tokens[7] > 0 AND tokens[3] > 0 AS sound_cached,
            -- OpenLIT reports no tier of a stream of the Responses API, but says that it was the standard one.
            streamed AND how.stream_flaw = 'cache_absent' AND tier = ''
                AND attributes['openai.api.type'] = 'responses' AND attributes['openai.request.service_tier'] NOT IN ('', 'auto', 'default', 'standard') AS tier_untold,
            -- What the span knows of the call that sets its price as a whole, the weightiest first: that its counts are not those of all that
            -- is billed, a mode or a country with prices of its own, the tier of the answer, tokens of such prices, and the tier that was asked
            -- for. It overrules a span of the same call that knows less. Where the answer tells its tier, what was asked for is no matter.
            attributes[how.service_tier] != '' AND NOT tier_untold AS tier_answered,
            if(automatic, 16 * (last_call_only OR sound_cached) + 8 * notEmpty(prices_said) + 4 * (tier_answered AND tier_said != prices_said)
                + 2 * (tokens[6] + tokens[7] + tokens[8] > 0) + (NOT tier_answered AND (tier_untold OR tier_said != prices_said)), 0) AS weight,
            weight + (automatic AND tier_answered) AS knows,
            if(weight = 0, '', concat('overrules ', toString(weight))) AS overrules
        FROM
        (
            SELECT
                *,
                NOT how.input_includes_cache AS cache_apart,
                attributes[how.response_id] AS response_id_sent,
                firstNonDefault(attributes[how.model], attributes[how.request_model]) AS model,
                [
                    attributes[how.input], attributes[how.output], attributes[how.cache_read],
                    if(attributes[how.cache_write] != '' OR how.cache_write != 'gen_ai.usage.cache_write.input_tokens', attributes[how.cache_write],
                        attributes['gen_ai.usage.cache_creation.input_tokens']),
                    attributes[how.reasoning], attributes[how.cache_write_1h], attributes[how.input_audio], attributes[how.output_audio]
                ] AS token_texts,
                firstNonDefault(attributes['gen_ai.usage.total_tokens'], attributes['llm.token_count.total'], attributes[how.total]) AS total,
                -- The tier of the answer; if it is not told, the one that was asked for.
                -- What else has prices of its own, whatever the tier, as Anthropic's fast mode, and a call that it keeps in one country.
                arrayFilter(word -> word NOT IN ('', 'default', 'standard', 'auto', 'on_demand', 'global', 'not_available'),
                    arrayMap(name -> attributes[name], how.prices)) AS prices_said,
                arrayConcat(arrayFilter(word -> word NOT IN ('', 'default', 'standard', 'auto', 'on_demand', 'global', 'not_available'),
                    [firstNonDefault(attributes[how.service_tier], attributes[how.request_service_tier])]), prices_said) AS tier_said,
                arrayConcat(
                    arrayFilter((text, key) -> key IN ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens',
                            'gen_ai.usage.cache_write.input_tokens', 'gen_ai.usage.cache_creation.input_tokens', 'gen_ai.usage.reasoning.output_tokens'),
                        mapValues(attributes), mapKeys(attributes)),
                    arrayFilter(text -> text != '', token_texts)) AS number_texts,
                -- Without a marker it is an LLM call if a row of credit_conventions says what its scope's attributes mean.
                NOT explicit AND charge_genai AND attributes[how.count] = '' AND (inference OR (rule > 1 AND unmarked AND token_texts[1] != '')) AS automatic,
                if(explicit, '', arrayStringConcat(arrayMap(word -> concat('_', word), tier_said))) AS tier,
                -- Google's SDK calls functions itself, and then the model again: the official instrumentation makes one span of it, with the
                -- last call's counts, and one below it for each function. OpenInference's span may be between the two.
                automatic AND (attributes['credits.read.several_calls'] = 'true' OR attributes[how.earlier_calls] NOT IN ('', '0', '[0]') OR (how.several_calls AND (
                    (attributes['gen_ai.response.finish_reasons'] = 'several' AND attributes['gen_ai.request.choice.count'] IN ('', '1'))
                    OR (trace_id, span_id) IN (
                        SELECT trace_id, parent_span_id FROM ruled_candidates
                        WHERE attributes['gen_ai.operation.name'] = 'execute_tool'
                            OR attributes[rules.3[transform(cityHash64(scope_name, scope_version, lower(firstNonDefault(attributes['gen_ai.provider.name'],
                                attributes['gen_ai.system'], attributes['llm.provider'], attributes['llm.system']))), rules.1, rules.2, toUInt16(1))].earlier_calls]
                                NOT IN ('', '0', '[0]'))
                    OR reinterpretAsUUID(sipHash128('tool', trace_id, span_id, toUInt64(0), toUInt64(0))) IN (
                        SELECT place FROM call_links WHERE place IN (SELECT place FROM places_of_several) AND role = 'executes')))) AS last_call_only,
                charge_genai AND NOT explicit AND operation = 'execute_tool' AND scope_name IN (SELECT scope_name FROM credit_conventions WHERE several_calls) AS executed,
                if(automatic AND how.stream_flaw != '', arrayExists(name -> lower(attributes[name]) NOT IN ('', 'false'), how.streams) OR (notEmpty(how.stream_order)
                    AND indexOf(mapKeys(attributes), how.stream_order[1]) NOT BETWEEN 1 AND indexOf(mapKeys(attributes), how.stream_order[2])), false) AS streamed,
                multiIf(
                    how.finish != '', attributes[how.finish] != '',
                    provider = 'anthropic', attributes['gen_ai.response.finish_reasons'] != '' OR attributes['anthropic.message.stop_reason'] != ''
                        OR attributes['llm.finish_reason'] != '',
                    true) AS finished
            FROM
            (
                SELECT
                    *,
                    transform(cityHash64(scope_name, scope_version, provider), rules.1, rules.2, toUInt16(1)) AS rule,
                    rules.3[rule] AS how,
                    operation IN ('chat', 'text_completion', 'generate_content', 'embeddings') OR kind_of_span IN ('LLM', 'EMBEDDING')
                        OR kind_of_request IN ('chat', 'completion', 'embedding') AS inference,
                    operation = 'embeddings' OR kind_of_span = 'EMBEDDING' OR kind_of_request = 'embedding' AS embedding,
                    operation = '' AND kind_of_span = '' AND kind_of_request = '' AS unmarked
                FROM
                (
                    SELECT
                        *,
                        mapContains(attributes, 'credits.action_type') AS explicit,
                        lower(firstNonDefault(attributes['gen_ai.provider.name'], attributes['gen_ai.system'], attributes['llm.provider'], attributes['llm.system'])) AS provider,
                        attributes['gen_ai.operation.name'] AS operation,
                        attributes['openinference.span.kind'] AS kind_of_span,
                        attributes['llm.request.type'] AS kind_of_request
                    FROM ruled_candidates
                )
            )
        )
    )
);

-- Calls that another span tells of, which is known or can be charged: a span around it that the app charges itself, one above or
-- below it with the same token counts where one of the two has no response id, calls that a bare parent repeats. Where neither id
-- nor ancestry tells, two instrumentations that report the same counts at the same time or place may tell of the same call.
-- What the app says itself goes before all of that, also if the call was charged before: that is then taken back (voids.py). But
-- what a person has taken back stays so. What an attempt that was cut off has charged, its repetition charges.
CREATE MATERIALIZED VIEW IF NOT EXISTS compared_usages_mv TO compared_usages AS
WITH
    (SELECT any(batch_id) FROM linked_usages) AS this_batch,
    cut_off AS
    (
        SELECT event_id FROM event_ids_by_key
        WHERE event_id IN (SELECT event_id FROM linked_usages WHERE identity IN ('key', 'response')) AND batch_id = this_batch
        UNION ALL
        SELECT event_id FROM event_ids_by_second
        WHERE second IN (SELECT second FROM linked_usages WHERE identity IN ('span', 'point'))
            AND event_id IN (SELECT event_id FROM linked_usages WHERE identity IN ('span', 'point')) AND batch_id = this_batch
    ),
    replacing AS (SELECT event_id FROM linked_usages WHERE identity = 'response' AND fingerprint = 1 AND reason IN ('', 'unpriced')),
    -- What overrules the one that answers is no copy of it.
    copies AS
    (
        SELECT event_id FROM (SELECT event_id, arrayExists(link -> startsWith(link.role, 'overrules '), links) AS overrules, arrayJoin(links) AS link FROM linked_usages)
        WHERE link.role = 'asks' AND (link.place, overrules) IN (
            SELECT answer.place, arrayJoin(answered) FROM
            (
                SELECT arrayJoin(links) AS answer, if(overruled, [false], [false, true]) AS answered
                FROM linked_usages WHERE reason = ''
            )
            WHERE answer.role = 'answers'
            UNION ALL
            SELECT place, arrayJoin([false, true]) FROM call_links
            WHERE place IN (SELECT arrayJoin(links).place FROM linked_usages) AND NOT startsWith(role, 'overrules ') AND batch_id != this_batch)
    ),
    event_id NOT IN (SELECT event_id FROM cut_off) AS may_be_copy,
    -- It may have the response id of a call within it.
    mapContains(attributes, 'credits.action_type') AS explicit
SELECT
    * REPLACE (may_be_copy AND overruled AS overruled),
    may_be_copy AND NOT explicit AND event_id IN (SELECT event_id FROM copies) AS copy,
    identity = 'response' AND fingerprint = 1 AND reason IN ('', 'unpriced') AND event_id IN (
        SELECT event_id FROM event_ids_by_key WHERE event_id IN (SELECT event_id FROM replacing) AND batch_id != this_batch
        GROUP BY event_id HAVING max(fingerprint) = 0
    ) AND event_id NOT IN (
        SELECT event_id FROM credit_voids WHERE event_id IN (SELECT event_id FROM replacing) AND kind = 'void') AS instead,
    -- Doubts and claims meet by grouping: the right side of a join would not read the block, but the (empty) table.
    may_be_copy AND event_id IN (
        SELECT doubt.2
        FROM
        (
            SELECT groupArrayArray(arrayMap(claim -> (claim.1, claim.2, scope_name), claimed)) AS claims,
                groupArrayArray(arrayMap(doubt -> (doubt.1, doubt.2, scope_name), doubting)) AS doubts
            FROM
            (
                -- Of many claims to a place the first of a scope are enough.
                SELECT place, scope_name, arraySlice(arraySort(groupUniqArrayIf((position, event_id), role = 'claims')), 1, 3) AS claimed,
                    groupArrayIf((position, event_id), role = 'doubts') AS doubting
                FROM
                (
                    SELECT link.place AS place, toString(link.role) AS role, scope_name, event_id,
                        if(role = 'claims' AND identity = 'response', -1, toInt64(sent_position)) AS position
                    FROM
                    (
                        SELECT arrayJoin(links) AS link, candidate.scope_name AS scope_name, event_id, identity, position AS sent_position
                        FROM linked_usages
                        WHERE reason = '' AND (mapContains(attributes, 'credits.action_type') OR event_id NOT IN (SELECT event_id FROM copies))
                    )
                    WHERE link.role IN ('doubts', 'claims')
                    UNION ALL
                    SELECT place, 'claims' AS role, toString(scope_name) AS scope_name, toUUID('00000000-0000-0000-0000-000000000000') AS event_id,
                        toInt64(-1) AS position
                    FROM call_links WHERE place IN (SELECT arrayJoin(links).place FROM linked_usages) AND batch_id != this_batch
                )
                GROUP BY place, scope_name
            )
            GROUP BY place
            HAVING notEmpty(claims) AND notEmpty(doubts)
        )
        ARRAY JOIN doubts AS doubt
        WHERE arrayExists(claim -> claim.3 != doubt.3 AND claim.1 < doubt.1 AND claim.2 != doubt.2, claims)) AS perhaps_copy
FROM linked_usages;

-- Whether one of two spans of a call knows more of it. In most blocks none does, and none of an earlier insert did.
CREATE MATERIALIZED VIEW IF NOT EXISTS linked_usages_mv TO linked_usages AS
SELECT *, false AS overruled FROM entangled_usages
WHERE (SELECT countIf(notEmpty(links)) FROM entangled_usages) > 0
    AND (SELECT countIf(arrayExists(link -> startsWith(link.role, 'overrules '), links)) FROM entangled_usages) = 0
    AND (SELECT countIf(startsWith(role, 'overrules ')) FROM call_links
        WHERE place IN (SELECT arrayJoin(arrayPushBack(links.place, event_id)) FROM entangled_usages)) = 0;

-- The opposite of the condition above.
CREATE MATERIALIZED VIEW IF NOT EXISTS knowing_usages_mv TO knowing_usages AS
SELECT * FROM entangled_usages
WHERE (SELECT countIf(arrayExists(link -> startsWith(link.role, 'overrules '), links)) FROM entangled_usages) > 0
    OR (SELECT countIf(startsWith(role, 'overrules ')) FROM call_links
        WHERE place IN (SELECT arrayJoin(arrayPushBack(links.place, event_id)) FROM entangled_usages)) > 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS overruled_usages_mv TO linked_usages AS
WITH
    (SELECT any(batch_id) FROM knowing_usages) AS this_batch,
    -- Spans of a call of which another one knows more, in this block or in an earlier one.
    outdone AS
    (
        SELECT arrayJoin(arrayFilter(one -> arrayExists(other -> other.1 > one.1 AND other.2 != one.2, overruling), met)).3 AS position
        FROM
        (
            SELECT
                groupUniqArrayIf((knows, span), startsWith(role, 'overrules ')) AS overruling,
                groupUniqArrayIf((knows, span, position), NOT startsWith(role, 'overrules ')) AS met
            FROM
            (
                SELECT
                    link.place AS place,
                    toString(link.role) AS role,
                    toUInt8OrZero(if(startsWith(role, 'overrules '), splitByChar(' ', role)[2],
                        substring(arrayFirst(one -> startsWith(one.role, 'knows '), links).role, 7))) AS knows,
                    reinterpretAsUUID(sipHash128(candidate.trace_id, candidate.span_id)) AS span,
                    position
                FROM
                (
                    SELECT *, arrayJoin(arrayConcat([('answers', event_id)::Tuple(role String, place UUID)], links)) AS link
                    FROM knowing_usages WHERE reason NOT IN ('not_usage', 'not_allowed') AND NOT mapContains(attributes, 'credits.action_type')
                )
                WHERE role IN ('asks', 'answers', 'later') OR startsWith(role, 'overrules ')
                UNION ALL
                SELECT place, toString(role) AS role, toUInt8OrZero(splitByChar(' ', role)[2]) AS knows, event_id AS span, toUInt64(0) AS position
                FROM call_links
                WHERE place IN (SELECT arrayJoin(arrayPushBack(links.place, event_id)) FROM knowing_usages) AND startsWith(role, 'overrules ') AND batch_id != this_batch
            )
            GROUP BY place, role = 'asks' OR endsWith(role, ' asks')
            HAVING notEmpty(overruling) AND notEmpty(met)
        )
    )
SELECT *, reason IN ('', 'unpriced') AND position IN (SELECT position FROM outdone) AS overruled FROM knowing_usages;

CREATE MATERIALIZED VIEW IF NOT EXISTS call_links_mv TO call_links AS
SELECT
    link.place AS place,
    link.role AS role,
    scope_name,
    multiIf(role IN ('within', 'encloses'), id, startsWith(role, 'overrules '), span, toUUID('00000000-0000-0000-0000-000000000000')) AS event_id,
    batch_id,
    received_at
FROM
(
    -- A tool that was executed is no usage, but tells of the span above it. What overrules others does so also while it waits.
    SELECT arrayJoin(arrayFilter(link -> link.role = 'executes' OR (outcome = 'charged' AND link.role IN ('answers', 'claims', 'later', 'within', 'encloses'))
            OR (outcome IN ('charged', 'quarantined') AND reason != 'not_allowed' AND startsWith(link.role, 'overrules ')), links)) AS link,
        candidate.scope_name AS scope_name, event_id AS id, reinterpretAsUUID(sipHash128(candidate.trace_id, candidate.span_id)) AS span, batch_id,
        toDateTime(received_at) AS received_at
    FROM rare_usages WHERE outcome = 'charged' OR arrayExists(link -> link.role = 'executes' OR startsWith(link.role, 'overrules '), links)
);
