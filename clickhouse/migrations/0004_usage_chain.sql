-- From a request's bytes to what becomes of each usage in it, in four steps. Every table here is Null: a block passes
-- through all views within the insert that brought it, and only the targets of 0005 keep anything.
--
--   otlp_traces -> usage_candidates -> usages -> rated_usages -> judged_usages
--
-- No span, however odd, may raise an exception here: each fault becomes a reason, and the row goes to the quarantine.

-- What a candidate says: who pays, for what, how much, and why it cannot be charged (reason), if so.
CREATE TABLE IF NOT EXISTS usages
(
    batch_id UUID,
    received_at DateTime64(6, 'UTC'),
    signal LowCardinality(String),
    receiver String,
    service_name String,
    position UInt64 COMMENT 'order of preference among copies in one block: explicit calls first, then as sent',
    identity LowCardinality(String),
    event_id UUID,
    second DateTime('UTC'),
    fingerprint UInt64,
    created_at DateTime64(6, 'UTC'),
    user_id String,
    user_email String,
    action_type String,
    model String,
    price_time DateTime64(6, 'UTC') COMMENT 'the last date at or before the usage at which any price changed',
    price_key String COMMENT 'action, model and price_time: what a price is looked up by, with the unit',
    units Map(String, Decimal(38, 12)),
    amount Nullable(Decimal(38, 12)) COMMENT 'the charge, if the app set it',
    input_tokens UInt64,
    output_tokens UInt64,
    reason LowCardinality(String),
    attributes Map(String, String),
    asks Array(UUID) COMMENT 'hashes of places that make this a copy of the call that stands there',
    answers Array(UUID) COMMENT 'hashes of the places where this call stands, for others in the block and later',
    doubts Array(UUID) COMMENT 'hashes of places that make this perhaps a copy',
    claims Array(UUID) COMMENT 'the answer to doubts, for others in the block and later',
    later Array(UUID) COMMENT 'further answers and claims, for what comes in other inserts only',
    candidate Tuple(signal String, batch_id UUID, received_at DateTime64(6, 'UTC'), position UInt64, charge_genai Bool, user_attributes Array(String),
        default_user String, receiver String, allowed_services Array(String), allowed_actions Array(String), service_name String, scope_name String, scope_version String, trace_id String, span_id String,
        parent_span_id String, answer_id String, name String, kind Int32, status_code Int32, start_time_unix_nano UInt64, end_time_unix_nano UInt64, series String,
        double_keys Array(String), defect String, rule_id String) COMMENT 'where it came from, for the quarantine'
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS rated_usages AS usages ENGINE = Null;
ALTER TABLE rated_usages ADD COLUMN IF NOT EXISTS credits_charged Decimal(38, 12);
ALTER TABLE rated_usages ADD COLUMN IF NOT EXISTS prices Map(String, Decimal(38, 12));

CREATE TABLE IF NOT EXISTS judged_usages AS rated_usages ENGINE = Null;
ALTER TABLE judged_usages ADD COLUMN IF NOT EXISTS outcome LowCardinality(String);

-- 1. Decode: one row a span that may be usage.
CREATE MATERIALIZED VIEW IF NOT EXISTS span_candidates_mv TO usage_candidates AS
WITH
    -- The billing rules that were in force when the oldest request of the block was received, or came after it.
    (
        SELECT arraySort(rule -> (rule.priority, rule.id), groupArray(rule)) FROM rules_in_force
        WHERE until_us > (SELECT min(envelope.received_at_us) FROM otlp_traces)
    ) AS rules,
    s.attributes.key AS keys,
    s.attributes.value.value AS kinds,
    arrayMap((key, kind, str, int, dbl, bln, lst) -> multiIf(
        kind = 'string_value', str,
        kind = 'int_value', toString(int),
        kind = 'double_value', toString(dbl),
        kind = 'bool_value', if(bln, 'true', 'false'),
        -- A list of one short string is that string (tag and length twice, then the text). Any other list is no value; of
        -- the finish reasons it only matters that there are some.
        kind = 'array_value', multiIf(
            length(lst) < 130 AND reinterpretAsUInt8(substring(lst, 2, 1)) = length(lst) - 2 AND substring(lst, 3, 1) = '\n', substring(lst, 5),
            lst != '' AND key = 'gen_ai.response.finish_reasons', 'several',
            ''),
        ''),
        keys, kinds, s.attributes.value.string_value, s.attributes.value.int_value, s.attributes.value.double_value,
        s.attributes.value.bool_value, s.attributes.value.array_value) AS texts,
    -- The number of the first rule that matches the span, 0 for none. A span that says itself what it is, is asked about none. As
    -- long as there are no rules, the condition is a constant, and nothing after it is computed.
    if(notEmpty(rules) AND NOT has(keys, 'credits.action_type'),
        arrayFirstIndex(rule -> rule.from_us <= envelope.received_at_us AND rule.until_us > envelope.received_at_us
            AND rule.kind IN (0, s.kind) AND rule.status IN (0, s.status.code + 1)
            AND rule.scope IN ('', ss.scope.name) AND rule.service IN ('', service_name)
            AND rule.name IN ('', s.name) AND startsWith(s.name, rule.name_prefix)
            AND arrayAll((key, text) -> has(keys, key) AND texts[indexOf(keys, key)] = text, rule.keys, rule.texts)
            AND arrayAll((key, prefix) -> has(keys, key) AND startsWith(texts[indexOf(keys, key)], prefix), rule.prefix_keys, rule.prefixes),
            rules), 0) AS matching,
    if(matching != 0 AND (s.status.code != 2 OR rules[matching].charge_failed), matching, 0) AS rule_number,
    rules[rule_number] AS rule,
    -- Seconds to the nanosecond. A span without a start has none; one that ends before it starts has negative ones.
    toInt128(s.end_time_unix_nano) - toInt128(s.start_time_unix_nano) AS lasted_ns,
    if(s.start_time_unix_nano < 946684800000000000, '', concat(if(lasted_ns < 0, '-', ''), toString(intDiv(abs(lasted_ns), 1000000000)), '.',
        leftPad(toString(abs(lasted_ns) % 1000000000), 9, '0'))) AS seconds,
    -- OpenInference tells the provider's response id only within the JSON of the answer, of which nothing else is read.
    if(envelope.charge_genai AND has(keys, 'openinference.span.kind'), s.attributes.value.string_value[indexOf(keys, 'output.value')], '') AS answer,
    if(answer = '', '', if(JSONHas(answer, 'id'), JSONExtractString(answer, 'id'), JSONExtractString(answer, 'llm_output', 'id'))) AS answer_id
SELECT
    'span' AS signal,
    toUUIDOrZero(envelope.batch_id) AS batch_id,
    fromUnixTimestamp64Micro(envelope.received_at_us, 'UTC') AS received_at,
    position,
    envelope.charge_genai AS charge_genai,
    envelope.user_attributes AS user_attributes,
    envelope.default_user AS default_user,
    envelope.receiver AS receiver,
    envelope.allowed_services AS allowed_services,
    envelope.allowed_actions AS allowed_actions,
    service_name,
    ss.scope.name AS scope_name,
    ss.scope.version AS scope_version,
    s.trace_id AS trace_id,
    s.span_id AS span_id,
    s.parent_span_id AS parent_span_id,
    answer_id,
    s.name AS name,
    s.kind AS kind,
    s.status.code AS status_code,
    s.start_time_unix_nano AS start_time_unix_nano,
    s.end_time_unix_nano AS end_time_unix_nano,
    '' AS series,
    -- A usage that its process has numbered keeps the process with it (0005, client_usages_mv).
    mapUpdate(if(has(keys, 'credits.seq'), map('service.instance.id', instance_id), map()), mapFromArrays(keys, texts)) AS attributes,
    arrayConcat(
        arrayFilter((key, kind) -> kind = 'double_value', keys, kinds),
        arrayFilter(key -> key != '', arrayMap((unit, source) -> if(startsWith(source, 'attribute:') AND kinds[indexOf(keys, substring(source, 11))] = 'double_value',
            concat('credits.units.', unit), ''), rule.units, rule.sources))) AS double_keys,
    if(length(arrayDistinct(keys)) = length(keys), '', 'duplicate_attribute') AS defect,
    rule.id AS rule_id,
    rule.action AS rule_action,
    mapFromArrays(rule.units, arrayMap(source -> multiIf(
        source = 'one', '1',
        source = 'seconds', seconds,
        texts[indexOf(keys, substring(source, 11))]), rule.sources)) AS rule_quantities
FROM
(
    -- The number of the row keeps the two conditions apart: as long as there are no rules, only spans that are candidates without
    -- one are read further.
    SELECT *, rowNumberInAllBlocks() AS position
    FROM
    (
        SELECT envelope, service_name, instance_id, ss, arrayJoin(ss.spans) AS s
        FROM
        (
            SELECT
                envelope,
                rs.resource.attributes.value.string_value[indexOf(rs.resource.attributes.key, 'service.name')] AS service_name,
                rs.resource.attributes.value.string_value[indexOf(rs.resource.attributes.key, 'service.instance.id')] AS instance_id,
                arrayJoin(rs.scope_spans) AS ss
            FROM (SELECT envelope, arrayJoin(resource_spans) AS rs FROM otlp_traces)
        )
    )
    WHERE notEmpty(rules)
        OR has(s.attributes.key, 'credits.action_type')
        OR (envelope.charge_genai AND (hasAny(s.attributes.key, ['gen_ai.operation.name', 'openinference.span.kind', 'llm.request.type'])
            OR arrayExists(key -> position(key, 'oken') > 0, s.attributes.key)))
)
WHERE empty(rules)
    OR rule_number != 0
    OR has(keys, 'credits.action_type')
    OR (envelope.charge_genai AND (hasAny(keys, ['gen_ai.operation.name', 'openinference.span.kind', 'llm.request.type'])
        OR arrayExists(key -> position(key, 'oken') > 0, keys)));

-- The same for metrics: a data point of a monotonic, delta Sum named credits.usage is usage; its number becomes the
-- quantity of the unit that its attribute credits.unit names.
CREATE MATERIALIZED VIEW IF NOT EXISTS point_candidates_mv TO usage_candidates AS
WITH
    p.attributes.key AS keys,
    mapFromArrays(keys, arrayMap((kind, str, int, dbl, bln, lst) -> multiIf(
        kind = 'string_value', str,
        kind = 'int_value', toString(int),
        kind = 'double_value', toString(dbl),
        kind = 'bool_value', if(bln, 'true', 'false'),
        -- As above: a list of one short string is that string.
        kind = 'array_value' AND length(lst) < 130 AND reinterpretAsUInt8(substring(lst, 2, 1)) = length(lst) - 2
            AND substring(lst, 3, 1) = '\n', substring(lst, 5),
        ''),
        p.attributes.value.value, p.attributes.value.string_value, p.attributes.value.int_value, p.attributes.value.double_value,
        p.attributes.value.bool_value, p.attributes.value.array_value)) AS texts,
    concat('credits.units.', if(texts['credits.unit'] = '', 'call', texts['credits.unit'])) AS unit_key
SELECT
    'point' AS signal,
    toUUIDOrZero(envelope.batch_id) AS batch_id,
    fromUnixTimestamp64Micro(envelope.received_at_us, 'UTC') AS received_at,
    rowNumberInAllBlocks() AS position,
    envelope.charge_genai AS charge_genai,
    envelope.user_attributes AS user_attributes,
    envelope.default_user AS default_user,
    envelope.receiver AS receiver,
    envelope.allowed_services AS allowed_services,
    envelope.allowed_actions AS allowed_actions,
    rm.resource.attributes.value.string_value[indexOf(rm.resource.attributes.key, 'service.name')] AS service_name,
    sm.scope.name AS scope_name,
    sm.scope.version AS scope_version,
    '' AS trace_id,
    '' AS span_id,
    '' AS parent_span_id,
    '' AS answer_id,
    m.name AS name,
    toInt32(0) AS kind,
    toInt32(0) AS status_code,
    p.start_time_unix_nano AS start_time_unix_nano,
    p.time_unix_nano AS end_time_unix_nano,
    hex(sipHash128(toString(arraySort(rm.resource.attributes)), sm.scope.name, sm.scope.version, toString(arraySort(p.attributes)))) AS series,
    mapUpdate(mapUpdate(map('credits.action_type', ''), texts),
        map(unit_key, if(p.number = 'as_int', toString(p.as_int), toString(p.as_double)))) AS attributes,
    if(p.number = 'as_double', [unit_key], []) AS double_keys,
    multiIf(
        form != 'sum' OR NOT m.sum.is_monotonic, 'metric_is_not_a_monotonic_sum',
        m.sum.aggregation_temporality = 2, 'metric_is_cumulative_use_cumulativetodelta',
        m.sum.aggregation_temporality != 1, 'metric_has_no_temporality',
        p.number = 'no', 'not_a_number',
        length(arrayDistinct(keys)) != length(keys), 'duplicate_attribute',
        '') AS defect
FROM
(
    SELECT
        envelope, rm, sm, m,
        arrayJoin(arrayConcat(
            arrayMap(point -> (point, 'sum'), m.sum.data_points),
            arrayMap(point -> (point, 'gauge'), m.gauge.data_points),
            arrayMap(point -> (defaultValueOfTypeName(toTypeName(m.sum.data_points[1])), 'other'), m.histogram.data_points),
            arrayMap(point -> (defaultValueOfTypeName(toTypeName(m.sum.data_points[1])), 'other'), m.exponential_histogram.data_points),
            arrayMap(point -> (defaultValueOfTypeName(toTypeName(m.sum.data_points[1])), 'other'), m.summary.data_points))) AS typed,
        typed.1 AS p,
        typed.2 AS form
    FROM
    (
        SELECT envelope, rm, sm, arrayJoin(sm.metrics) AS m
        FROM (SELECT envelope, rm, arrayJoin(rm.scope_metrics) AS sm FROM (SELECT envelope, arrayJoin(resource_metrics) AS rm FROM otlp_metrics))
    )
    WHERE m.name = 'credits.usage'
)
WHERE bitAnd(p.flags, 1) = 0;

-- 2. Read the conventions (docs/semantic-conventions.md): texts first, then numbers, then the verdict.
-- One query a level, because an alias that is used often is planned often, and planning is what a small insert costs.
CREATE MATERIALIZED VIEW IF NOT EXISTS usages_mv TO usages AS
WITH
    (SELECT arraySort(groupUniqArray(effective_from)) FROM credit_action_costs) AS price_changes,
    -- The rows of credit_conventions that apply in this block, as arrays: the first element is how an explicit usage is read, the
    -- others are found by the hash of scope, version and provider. One look-up a row, and none of the names is read unless it hits.
    (
        SELECT tuple(
            groupArray(key), groupArray(rule.1), groupArray(rule.2), groupArray(rule.3), groupArray(rule.4), groupArray(rule.5), groupArray(rule.6),
            groupArray(rule.7), groupArray(rule.8), groupArray(rule.9), groupArray(rule.10), groupArray(rule.11), groupArray(rule.12),
            groupArray(rule.13), groupArray(rule.14), groupArray(rule.15), groupArray(rule.16), groupArray(rule.17), groupArray(rule.18),
            groupArray(rule.19), arrayMap(number -> toUInt16(number), range(1, toUInt64(count() + 1))))
        FROM
        (
            SELECT * FROM
            (
                SELECT
                    key,
                    argMax((input_attribute, output_attribute, cache_read_attribute, cache_write_attribute, reasoning_attribute, cache_write_1h_attribute,
                            input_audio_attribute, output_audio_attribute, input_includes_cache, cache_unknown_from, model_attribute,
                            request_model_attribute, response_id_attribute, finish_attribute, service_tier_attribute, stream_attribute,
                            stream_order, toString(stream_flaw), preference),
                        (arrayMap(part -> toUInt32OrZero(part), extractAll(version_from, '[0-9]+')), r.provider != '', created_at)) AS rule
                FROM
                (
                    SELECT DISTINCT
                        scope_name,
                        scope_version,
                        if(charge_genai, lower(firstNonDefault(attributes['gen_ai.provider.name'], attributes['gen_ai.system'], attributes['llm.provider'], attributes['llm.system'])), '') AS provider,
                        cityHash64(scope_name, scope_version, provider) AS key,
                        arrayMap(part -> toUInt32OrZero(part), extractAll(scope_version, '[0-9]+')) AS version
                    FROM usage_candidates
                ) AS seen
                INNER JOIN credit_conventions AS r ON r.scope_name = seen.scope_name
                WHERE r.provider IN ('', seen.provider)
                    AND version >= arrayMap(part -> toUInt32OrZero(part), extractAll(version_from, '[0-9]+'))
                    AND (version_until = '' OR version < arrayMap(part -> toUInt32OrZero(part), extractAll(version_until, '[0-9]+')))
                GROUP BY key
                UNION ALL
                SELECT
                    toUInt64(0) AS key,
                    ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens', '',
                        'gen_ai.usage.reasoning.output_tokens', '', '', '', true, toUInt64(0), 'gen_ai.response.model', 'gen_ai.request.model',
                        'gen_ai.response.id', '', '', '', []::Array(String), '', toUInt8(9)) AS rule
            )
            ORDER BY key
        )
    ) AS rules
SELECT
    batch_id,
    received_at,
    signal,
    receiver,
    service_name,
    preference AS position,
    identity,
    reinterpretAsUUID(multiIf(
        identity = 'key', sipHash128('key', idempotency_key),
        identity = 'response', sipHash128('response', response_id),
        identity = 'point', sipHash128('point', candidate.series, candidate.start_time_unix_nano, candidate.end_time_unix_nano),
        sipHash128('span', candidate.trace_id, candidate.span_id, odd_id))) AS event_id,
    toDateTime(created_at) AS second,
    if(identity = 'key', cityHash64(user_id, action_type, has_amount, stated_amount, mapSort(if(identity = 'key', units, map()))), 0) AS fingerprint,
    created_at,
    user_id,
    attributes['user.email'] AS user_email,
    action_type,
    model,
    price_time,
    concat(toString(length(action_type)), ' ', toString(length(model)), ' ', toString(toUnixTimestamp64Micro(price_time)), ' ', action_type, model) AS price_key,
    units,
    if(has_amount, stated_amount, NULL) AS amount,
    input_tokens,
    tokens[2] AS output_tokens,
    reason,
    attributes,
    asks,
    answers,
    doubts,
    claims,
    later,
    candidate
FROM
(
    SELECT
        *,
        if(time_unusable, received_at, fromUnixTimestamp64Micro(toInt64(intDiv(candidate.end_time_unix_nano, 1000)), 'UTC')) AS created_at,
        if(created_at >= price_changes[-1], price_changes[-1], arrayLast(changed_at -> changed_at <= created_at, price_changes)) AS price_time,
        -- Another service tier than the standard one is part of each unit's name, so that it has prices of its own or none.
        multiIf(
            empty(sent_units) AND NOT has_amount, map('call', toDecimal128(1, 12)),
            tier != '', mapFromArrays(arrayMap(unit -> if(unit = 'reasoning_token', unit, concat(unit, tier)), mapKeys(sent_units)), mapValues(sent_units)),
            sent_units) AS units,
        -- Where a call stands: what other spans of the same call, which may have no response id, are recognised by.
        if(in_doubt, multiIf(
            bare, [sipHash128('parent', place.1, place.2)],
            explicit, [sipHash128('copy above', place.1, place.2, input_tokens, tokens[2])],
            response_id != '', [sipHash128('around', place.1, place.3)],
            [sipHash128('above', place.1, place.2, input_tokens, tokens[2]), sipHash128('below', place.1, place.3, input_tokens, tokens[2]),
                sipHash128('around', place.1, place.3)]), []) AS ask_hashes,
        if(in_doubt AND NOT bare, multiIf(
            explicit, [sipHash128('parent', place.1, place.3), sipHash128('around', place.1, place.2)],
            response_id != '', [sipHash128('parent', place.1, place.3), sipHash128('above', place.1, place.3, input_tokens, tokens[2]),
                sipHash128('below', place.1, place.2, input_tokens, tokens[2])],
            [sipHash128('parent', place.1, place.3), sipHash128('above', place.1, place.3, input_tokens, tokens[2])]), []) AS answer_hashes,
        if(in_doubt AND NOT bare, multiIf(
            explicit, [sipHash128('copy beside', place.1, place.3, input_tokens, tokens[2])],
            arrayConcat(
                [sipHash128('beside', place.1, place.3, input_tokens, tokens[2]), sipHash128('beside', place.1, place.3, toUInt64(greatest(uncached, 0)), tokens[2])],
                if(response_id != '', [], arrayMap(quarter -> sipHash128('when', service_name, quarter, input_tokens, tokens[2]),
                    [quarters - 1, quarters, quarters + 1])))), []) AS doubt_hashes,
        if(in_doubt AND NOT bare, if(explicit,
            [sipHash128('beside', place.1, place.3, input_tokens, tokens[2])],
            [sipHash128('when', service_name, quarters, input_tokens, tokens[2])]), []) AS claim_hashes,
        if(in_doubt AND NOT bare AND NOT explicit,
            [sipHash128('below', place.1, place.2, input_tokens, tokens[2]), sipHash128('copy above', place.1, place.3, input_tokens, tokens[2]),
                sipHash128('copy beside', place.1, place.3, input_tokens, tokens[2])], []) AS later_hashes,
        arrayMap(hash -> reinterpretAsUUID(hash), ask_hashes) AS asks,
        arrayMap(hash -> reinterpretAsUUID(hash), answer_hashes) AS answers,
        arrayMap(hash -> reinterpretAsUUID(hash), doubt_hashes) AS doubts,
        arrayMap(hash -> reinterpretAsUUID(hash), claim_hashes) AS claims,
        arrayMap(hash -> reinterpretAsUUID(hash), later_hashes) AS later,
        multiIf(
            NOT explicit AND NOT automatic AND NOT bare, 'not_usage',
            (notEmpty(candidate.allowed_services) AND NOT has(candidate.allowed_services, service_name))
                OR (notEmpty(candidate.allowed_actions) AND NOT has(candidate.allowed_actions, action_type)), 'not_allowed',
            candidate.defect != '', toString(candidate.defect),
            trace_id_wrong, 'invalid_trace_id',
            span_id_wrong, 'invalid_span_id',
            candidate.end_time_unix_nano = 0, 'time_missing',
            time_unusable, 'time_out_of_range',
            action_type = '', 'no_action_type',
            user_id = '', 'no_user',
            greatest(length(user_id), length(action_type), length(model), length(idempotency_key), length(response_id)) > 512, 'name_too_long',
            bare OR (automatic AND rule = 1), 'unknown_convention',
            wrong AND NOT match(wrong_number, '^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?$'), 'not_a_number',
            startsWith(wrong_number, '-'), 'negative_number',
            toFloat64OrZero(wrong_number) > 1e12, 'number_out_of_range',
            wrong, 'number_not_exact',
            uncached < 0 OR tokens[6] > tokens[4] OR tokens[8] > tokens[2], 'tokens_inconsistent',
            usage_unknown, 'usage_unknown',
            NOT automatic, '',
            token_texts[1] = '' OR (token_texts[2] = '' AND NOT embedding) OR input_tokens + tokens[2] = 0, 'usage_unknown',
            NOT embedding AND NOT finished, 'usage_unknown',
            streamed AND (flaw = 'output' OR (flaw = 'cache_zero' AND tokens[3] + tokens[4] = 0) OR (flaw = 'cache_absent' AND token_texts[3] = '')),
                'emitter_unreliable',
            token_texts[3] = '' AND NOT embedding AND cache_unknown_from > 0 AND input_tokens >= cache_unknown_from, 'cache_unknown',
            '') AS reason
    FROM
    (
        SELECT
            *,
            -- Spans without a valid id are told apart by what else they have, for who looks through the quarantine.
            if(trace_id_wrong OR span_id_wrong, concat(candidate.name, toString(candidate.end_time_unix_nano)), '') AS odd_id,
            if(explicit, 0, 1099511627776 * (1 + rules.20[rule])) + candidate.position AS preference,
            if(named_user != '', named_user, candidate.default_user) AS user_id,
            multiIf(idempotency_key != '', 'key', candidate.charge_genai AND response_id != '', 'response', toString(signal)) AS identity,
            toInt64(tokens[1]) - if(cache_apart, 0, toInt64(tokens[3] + tokens[4])) - toInt64(tokens[7]) AS uncached,
            if(cache_apart, tokens[1] + tokens[3] + tokens[4], tokens[1]) AS input_tokens,
            -- A quantity of 0 is kept where it was sent: zero is not missing.
            mapFilter((unit, quantity) -> quantity >= 0, map(
                'input_token', toDecimal128(if(token_texts[1] = '', -1, greatest(uncached, 0)), 12),
                'output_token', toDecimal128(if(token_texts[2] = '', -1, toInt64(tokens[2]) - toInt64(tokens[8])), 12),
                'cache_read_token', toDecimal128(toInt64(tokens[3]) - (tokens[3] = 0), 12),
                'cache_write_token', toDecimal128(toInt64(tokens[4]) - toInt64(tokens[6]) - (tokens[4] = tokens[6]), 12),
                'reasoning_token', toDecimal128(toInt64(tokens[5]) - (tokens[5] = 0), 12))) AS common_units,
            mapUpdate(
                -- What few emitters tell apart: hour-long cache writes and audio.
                if(rule > 1 AND tokens[6] + tokens[7] + tokens[8] > 0,
                    mapConcat(common_units, mapFilter((unit, quantity) -> quantity > 0, map(
                        'cache_write_1h_token', toDecimal128(tokens[6], 12),
                        'input_audio_token', toDecimal128(tokens[7], 12),
                        'output_audio_token', toDecimal128(tokens[8], 12)))),
                    common_units),
                mapFromArrays(arrayMap(key -> substring(key, 15), stated_keys), stated_numbers)) AS sent_units,
            amount_numbers[1] AS stated_amount,
            notEmpty(wrong_tokens) OR notEmpty(wrong_numbers) AS wrong,
            concat(wrong_tokens[1], wrong_numbers[1]) AS wrong_number,
            rules.11[rule] AS cache_unknown_from,
            if(automatic, rules.19[rule], '') AS flaw,
            if(automatic AND flaw != '', attributes[rules.17[rule]] = 'true' OR (notEmpty(rules.18[rule])
                AND indexOf(mapKeys(attributes), rules.18[rule][1]) NOT BETWEEN 1 AND indexOf(mapKeys(attributes), rules.18[rule][2])), false) AS streamed,
            if(automatic, multiIf(
                rules.15[rule] != '', attributes[rules.15[rule]] != '',
                provider = 'anthropic', attributes['gen_ai.response.finish_reasons'] != '' OR attributes['anthropic.message.stop_reason'] != ''
                    OR attributes['llm.finish_reason'] != '',
                true), true) AS finished,
            -- Ids are never shorter in a usage that can be charged; the sum of it all is one place.
            candidate.charge_genai AND signal = 'span' AND (automatic OR bare OR (explicit AND token_texts[1] != '' AND candidate.rule_id = '')) AS in_doubt,
            (candidate.trace_id, candidate.span_id, candidate.parent_span_id) AS place,
            intDiv(candidate.end_time_unix_nano, 250000000) AS quarters
        FROM
        (
            SELECT
                *,
                if(rule = 1 OR explicit, '', if(attributes[rules.16[rule]] IN ('', 'default', 'standard', 'auto'), '', concat('_', attributes[rules.16[rule]]))) AS tier,
                NOT rules.10[rule] AS cache_apart,
                -- Without a marker it is an LLM call if a row of credit_conventions says what its scope's attributes mean.
                NOT explicit AND candidate.charge_genai AND (inference OR (rule > 1 AND unmarked AND token_texts[1] != '')) AS automatic,
                NOT explicit AND candidate.charge_genai AND NOT automatic AND has_counts AS bare,
                -- Numbers that are safe to compute with; the ones that are not are listed as wrong.
                arrayMap(text -> least(toUInt64OrZero(text), 1000000000000), token_texts) AS tokens,
                arrayFilter(text -> ifNull(toUInt64OrNull(text), 18446744073709551615) > 1000000000000, arrayConcat(sent_token_texts,
                    if(rule = 1, [], arrayFilter(text -> text != '', token_texts)))) AS wrong_tokens,
                -- 50 decimals are read, 12 are kept: a text that needs more is refused, a binary float is rounded (half to
                -- even), since its shortest decimal form is what the app meant.
                arrayMap(text -> CAST(roundBankers(greatest(least(toDecimal256OrZero(text, 50), 1000000000000000), 0), 12), 'Decimal(38, 12)'), stated_texts) AS stated_numbers,
                arrayMap(text -> CAST(roundBankers(greatest(least(toDecimal256OrZero(text, 50), 1000000000000000), 0), 12), 'Decimal(38, 12)'), [amount_text]) AS amount_numbers,
                arrayFilter((text, key) -> length(text) > 40 OR NOT match(text, '^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?$')
                        OR ifNull(toDecimal256OrNull(text, 50), -1) < 0 OR toDecimal256OrZero(text, 50) > 1000000000000000
                        OR (NOT has(candidate.double_keys, key) AND (
                            toDecimal256OrZero(text, 50) != roundBankers(toDecimal256OrZero(text, 50), 12)
                            OR (toDecimal256OrZero(text, 50) = 0 AND match(text, '^[^eE]*[1-9]')))),
                    number_texts, number_keys) AS wrong_numbers
            FROM
            (
                SELECT
                    batch_id,
                    received_at,
                    signal,
                    receiver,
                    service_name,
                    attributes,
                    tuple(signal, batch_id, received_at, position, charge_genai, user_attributes, default_user, receiver, allowed_services, allowed_actions, service_name, scope_name, scope_version,
                        trace_id, span_id, parent_span_id, answer_id, name, kind, status_code, start_time_unix_nano, end_time_unix_nano, series, double_keys, defect, rule_id)
                        ::Tuple(signal String, batch_id UUID, received_at DateTime64(6, 'UTC'), position UInt64, charge_genai Bool, user_attributes Array(String),
                            default_user String, receiver String, allowed_services Array(String), allowed_actions Array(String), service_name String, scope_name String, scope_version String, trace_id String, span_id String,
                            parent_span_id String, answer_id String, name String, kind Int32, status_code Int32, start_time_unix_nano UInt64, end_time_unix_nano UInt64, series String,
                            double_keys Array(String), defect String, rule_id String) AS candidate,
                    provider,
                    rule,
                    explicit,
                    if(explicit, attributes['credits.action_type'], 'ai_call') AS action_type,
                    inference,
                    embedding,
                    unmarked,
                    -- Counts of tokens on a span that says neither that it is an LLM call nor that it is something else.
                    if(charge_genai AND NOT explicit AND NOT inference AND (unmarked OR operation NOT IN ('', 'invoke_agent', 'create_agent', 'invoke_workflow',
                            'execute_tool', 'execute_task', 'retrieval', 'rerank', 'plan')),
                        arrayExists((key, value) -> match(value, '^[0-9]+$')
                            AND match(key, '(?i)(^gen_ai[.]usage|^llm[.](usage|token_count)|input|output|prompt|completion|total).*tokens?|^llm[.]token_count|tokens?[._](input|output|prompt|completion|total)'),
                            mapKeys(attributes), mapValues(attributes)),
                        false) AS has_counts,
                    if(rule = 1,
                        if(attributes['gen_ai.response.model'] != '', attributes['gen_ai.response.model'], attributes['gen_ai.request.model']),
                        if(attributes[rules.12[rule]] != '', attributes[rules.12[rule]], attributes[rules.13[rule]])) AS model,
                    -- Who pays: the first attribute of the list that the span has.
                    if(empty(user_attributes), ['credits.user_id', 'user.id', 'enduser.id'], user_attributes) AS payers,
                    arrayFirst(value -> value != '', [attributes[payers[1]], attributes[payers[2]], attributes[payers[3]], attributes[payers[4]],
                        attributes[payers[5]], attributes[payers[6]], attributes[payers[7]], attributes[payers[8]]]) AS named_user,
                    if(rule = 1,
                        [
                            attributes['gen_ai.usage.input_tokens'],
                            attributes['gen_ai.usage.output_tokens'],
                            attributes['gen_ai.usage.cache_read.input_tokens'],
                            if(attributes['gen_ai.usage.cache_write.input_tokens'] != '', attributes['gen_ai.usage.cache_write.input_tokens'],
                                attributes['gen_ai.usage.cache_creation.input_tokens']),
                            attributes['gen_ai.usage.reasoning.output_tokens']
                        ],
                        [
                            attributes[rules.2[rule]], attributes[rules.3[rule]], attributes[rules.4[rule]],
                            firstNonDefault(attributes[rules.5[rule]], if(rules.5[rule] = 'gen_ai.usage.cache_write.input_tokens',
                                attributes['gen_ai.usage.cache_creation.input_tokens'], '')),
                            attributes[rules.6[rule]], attributes[rules.7[rule]], attributes[rules.8[rule]], attributes[rules.9[rule]]
                        ]) AS token_texts,
                    signal = 'span' AND (length(trace_id) != 16 OR trace_id = unhex('00000000000000000000000000000000')) AS trace_id_wrong,
                    signal = 'span' AND (length(span_id) != 8 OR span_id = unhex('0000000000000000')) AS span_id_wrong,
                    arrayFilter((text, key) -> key IN ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens',
                            'gen_ai.usage.cache_write.input_tokens', 'gen_ai.usage.cache_creation.input_tokens', 'gen_ai.usage.reasoning.output_tokens'),
                        mapValues(attributes), mapKeys(attributes)) AS sent_token_texts,
                    arrayFilter(key -> startsWith(key, 'credits.units.'), mapKeys(attributes)) AS stated_keys,
                    arrayFilter((value, key) -> startsWith(key, 'credits.units.'), mapValues(attributes), mapKeys(attributes)) AS stated_texts,
                    attributes['credits.amount'] AS amount_text,
                    mapContains(attributes, 'credits.amount') AS has_amount,
                    if(mapContains(attributes, 'credits.amount'), arrayPushBack(stated_keys, 'credits.amount'), stated_keys) AS number_keys,
                    if(mapContains(attributes, 'credits.amount'), arrayPushBack(stated_texts, amount_text), stated_texts) AS number_texts,
                    attributes['credits.usage_unknown'] = 'true' AS usage_unknown,
                    attributes['credits.idempotency_key'] AS idempotency_key,
                    if(rule = 1, firstNonDefault(attributes['gen_ai.response.id'], answer_id), firstNonDefault(attributes[rules.14[rule]], answer_id)) AS response_id,
                    end_time_unix_nano < 946684800000000000
                        OR end_time_unix_nano > (toUInt64(greatest(toUnixTimestamp64Micro(received_at), 946684800000000)) + 2678400000000) * 1000 AS time_unusable
                FROM
                (
                    -- A span that a billing rule matches is read as if it said so itself: the rule's action and quantities, and of
                    -- its own attributes who pays and what is shown. An LLM call that is charged anyway is not asked about rules.
                    SELECT
                        * REPLACE (
                            if(NOT ruled, attributes, mapUpdate(mapUpdate(map('credits.description', name),
                                mapFilter((key, text) -> startsWith(key, 'credits.metadata.') OR startsWith(key, 'user.') OR has(user_attributes, key)
                                    OR key IN ('credits.user_id', 'enduser.id', 'credits.description', 'credits.resource_id', 'credits.resource_type',
                                        'gen_ai.request.model', 'gen_ai.response.model', 'credits.seq', 'service.instance.id'), attributes)),
                                mapUpdate(map('credits.action_type', rule_action),
                                    mapFromArrays(arrayMap(unit -> concat('credits.units.', unit), mapKeys(rule_quantities)), mapValues(rule_quantities))))) AS attributes,
                            if(charged_anyway, '', rule_id) AS rule_id,
                            if(ruled, '', answer_id) AS answer_id,
                            explicit OR ruled AS explicit)
                    FROM
                    (
                        SELECT
                            *,
                            transform(cityHash64(scope_name, scope_version, provider), rules.1, rules.21, toUInt16(1)) AS rule,
                            operation IN ('chat', 'text_completion', 'generate_content', 'embeddings') OR kind_of_span IN ('LLM', 'EMBEDDING')
                                OR kind_of_request IN ('chat', 'completion', 'embedding') AS inference,
                            operation = 'embeddings' OR kind_of_span = 'EMBEDDING' OR kind_of_request = 'embedding' AS embedding,
                            operation = '' AND kind_of_span = '' AND kind_of_request = '' AS unmarked,
                            rule_id != '' AND NOT explicit AND charge_genai AND inference AS charged_anyway,
                            rule_id != '' AND NOT explicit AND NOT charged_anyway AS ruled
                        FROM
                        (
                            SELECT
                                *,
                                mapContains(attributes, 'credits.action_type') AS explicit,
                                if(charge_genai, lower(firstNonDefault(attributes['gen_ai.provider.name'], attributes['gen_ai.system'], attributes['llm.provider'], attributes['llm.system'])), '') AS provider,
                                attributes['gen_ai.operation.name'] AS operation,
                                attributes['openinference.span.kind'] AS kind_of_span,
                                attributes['llm.request.type'] AS kind_of_request
                            FROM usage_candidates
                        )
                    )
                )
            )
        )
    )
);

-- 3. Rate: find the price of each unit and sum. Prices are looked up once for each combination in the block, straight
-- from the table, so a changed price counts from the next insert on.
CREATE MATERIALIZED VIEW IF NOT EXISTS rated_usages_mv TO rated_usages AS
WITH
    (
        SELECT (arrayPushBack(groupArray(lookup), ''), arrayPushBack(groupArray(price), ''))
        FROM
        (
            SELECT
                concat(w.price_key, w.unit) AS lookup,
                toString(argMax(p.credits_per_unit, (p.effective_from <= w.price_time, p.action_type = w.action_type,
                    indexOf(w.names, p.model) > 0, -indexOf(w.names, p.model), p.effective_from, p.created_at))) AS price
            FROM
            (
                -- The names of a model, the closest first: as reported, as its alias, and that without the date of a snapshot, then
                -- without a gateway's or a cloud's address of it (openai/gpt-5, models/gemini-..., us.anthropic.claude-...-v1:0, an ARN).
                SELECT
                    *,
                    if(alias != '', alias, model) AS base,
                    replaceRegexpOne(base, '[-@](20\\d{6}|20\\d{2}-\\d{2}-\\d{2})$', '') AS undated,
                    replaceRegexpOne(
                        replaceRegexpOne(replaceRegexpOne(base, '^.*/', ''), '^(([a-z]{2,4}|us-gov|global)[.])?(anthropic|openai|google)[.]', ''),
                        '-v[0-9]+(:[0-9]+)*(:[0-9]+k)?$', '') AS plain,
                    arrayDistinct([model, base, undated, plain, replaceRegexpOne(plain, '[-@](20\\d{6}|20\\d{2}-\\d{2}-\\d{2})$', '')]) AS names
                FROM
                (
                    SELECT DISTINCT price_key, action_type, model, price_time, arrayJoin(mapKeys(units)) AS unit
                    FROM usages WHERE reason = '' AND isNull(amount)
                ) AS u
                LEFT JOIN (SELECT model, argMax(price_model, created_at) AS alias FROM credit_model_aliases GROUP BY model) AS a ON a.model = u.model
            ) AS w
            INNER JOIN
            (
                SELECT *, effective_from = created_at AND effective_from = min(effective_from) OVER (PARTITION BY action_type, model, unit) AS also_before
                FROM credit_action_costs
            ) AS p ON p.unit = w.unit
            WHERE p.action_type IN (w.action_type, '*') AND (p.model = '*' OR has(w.names, p.model))
                AND (p.effective_from <= w.price_time OR p.also_before)
            GROUP BY lookup
        )
    ) AS book,
    arrayMap(unit -> if(isNull(amount), transform(concat(price_key, unit), book.1, book.2, ''), ''),
        mapKeys(units)) AS price_texts,
    arrayMap(text -> ifNull(toDecimal128OrNull(text, 12), toDecimal128(0, 12)), price_texts) AS unit_prices,
    arrayExists((text, unit, quantity) -> text = '' AND quantity != 0 AND unit != 'reasoning_token', price_texts, mapKeys(units), mapValues(units)) AS some_unpriced,
    arraySum((price, quantity) -> toDecimal256(price, 12) * toDecimal256(quantity, 12), unit_prices, mapValues(units)) AS exact_sum,
    exact_sum > 1000000000000000000 AS sum_out_of_range,
    CAST(roundBankers(if(sum_out_of_range, toDecimal256(0, 24), exact_sum), 12), 'Decimal(38, 12)') AS rated
SELECT
    * EXCEPT (reason),
    multiIf(
        u.reason != '', toString(u.reason),
        isNull(amount) AND some_unpriced, 'unpriced',
        isNull(amount) AND sum_out_of_range, 'amount_out_of_range',
        '') AS reason,
    ifNull(amount, rated) AS credits_charged,
    if(isNull(amount), mapFromArrays(mapKeys(units), unit_prices), map()) AS prices
FROM usages AS u;

-- 4. Judge: a usage is charged unless it cannot be, or already was. Rows of the same batch in the id tables do not
-- count as known: they are there from an attempt that was cut off, and this one completes it, even if another aggregator has
-- charged a copy meanwhile (voids.py takes one of the two back). Copies within the block are
-- rare, so only ids that occur more than once are looked at row by row: the first that can be charged is.
CREATE MATERIALIZED VIEW IF NOT EXISTS judged_usages_mv TO judged_usages AS
WITH
    (SELECT any(batch_id) FROM rated_usages) AS this_batch,
    -- Calls that another span tells of, which is known or can be charged: a span around it that the app charges itself, one above or
    -- below it with the same token counts where one of the two has no response id, calls that a bare parent repeats.
    copies AS
    (
        SELECT event_id FROM (SELECT event_id, arrayJoin(asks) AS ask FROM rated_usages)
        WHERE ask IN (
            SELECT arrayJoin(answers) FROM rated_usages WHERE reason = ''
            UNION ALL
            SELECT link FROM call_links WHERE link IN (SELECT arrayJoin(asks) FROM rated_usages) AND batch_id != this_batch)
    )
SELECT
    * EXCEPT (reason, known, known_otherwise, repeated, first, first_is_other, copy, perhaps_copy),
    multiIf(
        t.reason = 'not_usage', 'not_usage',
        copy, 'duplicate',
        perhaps_copy AND NOT known AND (first OR (NOT repeated AND t.reason = '')), 'quarantined',
        known, if(known_otherwise, 'quarantined', 'duplicate'),
        NOT repeated, if(t.reason = '', 'charged', 'quarantined'),
        first, 'charged',
        first_is_other, 'quarantined',
        'duplicate') AS outcome,
    multiIf(
        outcome != 'quarantined' OR t.reason != '', toString(t.reason),
        perhaps_copy, 'possible_copy',
        'idempotency_conflict') AS reason
FROM
(
    SELECT
        *,
        event_id IN (
            SELECT event_id FROM event_ids_by_second
            WHERE second IN (SELECT second FROM rated_usages WHERE identity IN ('span', 'point'))
                AND event_id IN (SELECT event_id FROM rated_usages WHERE identity IN ('span', 'point'))
            GROUP BY event_id HAVING NOT max(batch_id = this_batch)
            UNION ALL
            SELECT event_id FROM event_ids_by_key
            WHERE event_id IN (SELECT event_id FROM rated_usages WHERE identity IN ('key', 'response'))
            GROUP BY event_id HAVING NOT max(batch_id = this_batch)) AS known,
        r.reason = '' AND identity = 'key' AND known AND (event_id, fingerprint) NOT IN (
            SELECT event_id, fingerprint FROM event_ids_by_key
            WHERE event_id IN (SELECT event_id FROM rated_usages WHERE identity = 'key') AND batch_id != this_batch) AS known_otherwise,
        event_id IN (
            SELECT event_id FROM rated_usages GROUP BY event_id HAVING count() > 1 AND countIf(reason = '') > 0) AS repeated,
        position IN (
            SELECT minIf(position, reason = '') FROM rated_usages GROUP BY event_id HAVING count() > 1 AND countIf(reason = '') > 0) AS first,
        r.reason = '' AND identity = 'key' AND repeated AND (event_id, fingerprint) NOT IN (
            SELECT event_id, argMinIf(fingerprint, position, reason = '') FROM rated_usages WHERE identity = 'key' GROUP BY event_id HAVING count() > 1)
            AS first_is_other,
        event_id IN (SELECT event_id FROM copies) AS copy,
        event_id IN (
            SELECT u.event_id
            FROM (SELECT event_id, position, candidate.scope_name AS scope_name, arrayJoin(doubts) AS doubt FROM rated_usages WHERE reason = '') AS u
            INNER JOIN
            (
                SELECT claim, scope_name, min(claimed_position) AS position, argMin(claimed_event, claimed_position) AS claimed_by
                FROM
                (
                    SELECT arrayJoin(claims) AS claim, candidate.scope_name AS scope_name, if(identity = 'response', 0, position) AS claimed_position,
                        event_id AS claimed_event
                    FROM rated_usages WHERE reason = '' AND notEmpty(claims) AND event_id NOT IN (SELECT event_id FROM copies)
                    UNION ALL
                    SELECT link AS claim, toString(scope_name) AS scope_name, 0 AS claimed_position, toUUID('00000000-0000-0000-0000-000000000000') AS claimed_event
                    FROM call_links WHERE link IN (SELECT arrayJoin(doubts) FROM rated_usages) AND batch_id != this_batch
                )
                GROUP BY claim, scope_name
            ) AS v ON u.doubt = v.claim
            WHERE u.scope_name != v.scope_name AND v.position < u.position AND v.claimed_by != u.event_id) AS perhaps_copy
    FROM rated_usages AS r
) AS t;
