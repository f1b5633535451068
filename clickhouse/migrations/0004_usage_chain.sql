-- From a request's bytes to what becomes of each usage in it, in four steps. Every table here is Null: a block passes
-- through all views within the insert that brought it, and only the targets of 0005 keep anything.
--
--   otlp_traces -> usage_candidates -> readings -> usages -> rated_usages -> judged_usages
--
-- That is the short way, of a block of usages that say themselves what they are, each with an id of its own. If it holds anything else
-- (LLM calls of other instrumentations, spans that a billing rule matches, copies) the whole block takes a longer one, by the views of
-- 0011 and by compared_usages: a view costs an insert its planning, but only if rows reach it.
--
-- No span, however odd, may raise an exception here: each fault becomes a reason, and the row goes to the quarantine.

-- What a candidate says, whoever emitted it, before its numbers are checked.
CREATE TABLE IF NOT EXISTS readings AS usage_candidates ENGINE = Null;
ALTER TABLE readings
    ADD COLUMN IF NOT EXISTS action_type String,
    ADD COLUMN IF NOT EXISTS model String,
    ADD COLUMN IF NOT EXISTS response_id String,
    ADD COLUMN IF NOT EXISTS token_texts Array(String) COMMENT 'input, output, cache read, cache write, reasoning; then, of these: hour-long cache writes, input audio, output audio',
    ADD COLUMN IF NOT EXISTS token_units Array(String) COMMENT 'the unit of each',
    ADD COLUMN IF NOT EXISTS cache_apart Bool COMMENT 'whether the input tokens leave out cached ones',
    ADD COLUMN IF NOT EXISTS number_texts Array(String) COMMENT 'token counts that must be numbers',
    ADD COLUMN IF NOT EXISTS verdict LowCardinality(String) COMMENT 'why it cannot be charged, as far as its emitter is concerned',
    ADD COLUMN IF NOT EXISTS preference UInt64 COMMENT 'order among copies in one block',
    ADD COLUMN IF NOT EXISTS links Array(Tuple(role String, place UUID));

-- What it is as a usage: who pays, for what, how much, and why it cannot be charged (reason), if so.
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
    links Array(Tuple(role String, place UUID)) COMMENT 'of an LLM call: where it stands among other spans (0011)',
    candidate Tuple(signal String, batch_id UUID, received_at DateTime64(6, 'UTC'), position UInt64, charge_genai Bool, user_attributes Array(String),
        default_user String, receiver String, allowed_services Array(String), allowed_actions Array(String), service_name String, scope_name String, scope_version String, trace_id String, span_id String,
        parent_span_id String, name String, kind Int32, status_code Int32, start_time_unix_nano UInt64, end_time_unix_nano UInt64, series String,
        double_keys Array(String), defect String, rule_id String) COMMENT 'where it came from, for the quarantine'
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS rated_usages AS usages ENGINE = Null;
ALTER TABLE rated_usages ADD COLUMN IF NOT EXISTS credits_charged Decimal(38, 12);
ALTER TABLE rated_usages ADD COLUMN IF NOT EXISTS prices Map(String, Decimal(38, 12));

CREATE TABLE IF NOT EXISTS entangled_usages AS rated_usages ENGINE = Null;
CREATE TABLE IF NOT EXISTS compared_usages AS rated_usages ENGINE = Null;
ALTER TABLE compared_usages ADD COLUMN IF NOT EXISTS copy Bool COMMENT 'another span tells of the same call';
ALTER TABLE compared_usages ADD COLUMN IF NOT EXISTS perhaps_copy Bool;
ALTER TABLE compared_usages ADD COLUMN IF NOT EXISTS instead Bool COMMENT 'it is known, but only as an automatic usage, which it replaces';
ALTER TABLE compared_usages ADD COLUMN IF NOT EXISTS overruled Bool COMMENT 'another span knows more of the call, which is charged, or waits, as that one tells it';

CREATE TABLE IF NOT EXISTS judged_usages AS rated_usages ENGINE = Null;
ALTER TABLE judged_usages ADD COLUMN IF NOT EXISTS outcome LowCardinality(String);

-- 1. Decode: one row a span that may be usage. While billing rules are in use each span may be; ruled_candidates_mv (0011) asks them.
CREATE MATERIALIZED VIEW IF NOT EXISTS span_candidates_mv TO usage_candidates AS
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
    envelope.estimated AS estimated,
    service_name,
    ss.scope.name AS scope_name,
    ss.scope.version AS scope_version,
    s.trace_id AS trace_id,
    s.span_id AS span_id,
    s.parent_span_id AS parent_span_id,
    s.name AS name,
    s.kind AS kind,
    s.status.code AS status_code,
    s.start_time_unix_nano AS start_time_unix_nano,
    s.end_time_unix_nano AS end_time_unix_nano,
    '' AS series,
    -- What else of the span is wanted with the event (OTEL_CREDITS_KEEP_ATTRIBUTES) becomes metadata, and goes the way of it. A usage
    -- that its process has numbered keeps the process with it (0005, client_usages_mv).
    mapFromArrays(
        arrayConcat(keys, arrayMap(key -> concat('credits.metadata.', key), kept), unnamed),
        arrayConcat(texts, arrayMap(key -> leftUTF8(texts[indexOf(keys, key)], 512), kept), arrayMap(key -> instance_id, unnamed))) AS attributes,
    arrayFilter((key, kind) -> kind = 'double_value', keys, kinds) AS double_keys,
    if(arrayUniq(keys) = length(keys), '', 'duplicate_attribute') AS defect,
    true AS ask_rules
FROM
(
    -- One query a level: an alias that is used often is planned often, and planning is what a small insert costs.
    SELECT
        *,
        arrayFilter(key -> texts[indexOf(keys, key)] != '' AND NOT has(keys, concat('credits.metadata.', key)), envelope.keep_attributes) AS kept,
        if(has(keys, 'credits.seq') AND NOT has(keys, 'service.instance.id'), ['service.instance.id'], []) AS unnamed
    FROM
    (
        SELECT
            envelope,
            service_name,
            instance_id,
            ss,
            s,
            rowNumberInAllBlocks() AS position,
            s.attributes.key AS keys,
            s.attributes.value.value AS kinds,
            -- What has no name has no value: where no attribute is meant, none must be found.
            arrayMap((key, kind, str, int, dbl, bln, lst) -> multiIf(
                key = '', '',
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
                s.attributes.value.bool_value, s.attributes.value.array_value) AS texts
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
        WHERE (SELECT countIf(enabled) FROM credit_rules) > 0
            OR has(s.attributes.key, 'credits.action_type')
            OR (envelope.charge_genai AND (hasAny(s.attributes.key, ['gen_ai.operation.name', 'openinference.span.kind', 'llm.request.type'])
                OR arrayExists(key -> position(key, 'oken') > 0, s.attributes.key)))
    )
);

-- The same for metrics: a data point of a monotonic, delta Sum named credits.usage is usage; its number becomes the
-- quantity of the unit that its attribute credits.unit names.
CREATE MATERIALIZED VIEW IF NOT EXISTS point_candidates_mv TO usage_candidates AS
WITH
    p.attributes.key AS keys,
    mapFromArrays(keys, arrayMap((key, kind, str, int, dbl, bln, lst) -> multiIf(
        key = '', '',
        kind = 'string_value', str,
        kind = 'int_value', toString(int),
        kind = 'double_value', toString(dbl),
        kind = 'bool_value', if(bln, 'true', 'false'),
        -- As above: a list of one short string is that string.
        kind = 'array_value' AND length(lst) < 130 AND reinterpretAsUInt8(substring(lst, 2, 1)) = length(lst) - 2
            AND substring(lst, 3, 1) = '\n', substring(lst, 5),
        ''),
        keys, p.attributes.value.value, p.attributes.value.string_value, p.attributes.value.int_value, p.attributes.value.double_value,
        p.attributes.value.bool_value, p.attributes.value.array_value)) AS texts,
    arrayFilter(key -> texts[key] != '', envelope.keep_attributes) AS kept,
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
    envelope.estimated AS estimated,
    rm.resource.attributes.value.string_value[indexOf(rm.resource.attributes.key, 'service.name')] AS service_name,
    sm.scope.name AS scope_name,
    sm.scope.version AS scope_version,
    '' AS trace_id,
    '' AS span_id,
    '' AS parent_span_id,
    m.name AS name,
    toInt32(0) AS kind,
    toInt32(0) AS status_code,
    p.start_time_unix_nano AS start_time_unix_nano,
    p.time_unix_nano AS end_time_unix_nano,
    hex(sipHash128(toString(arraySort(rm.resource.attributes)), sm.scope.name, sm.scope.version, toString(arraySort(p.attributes)))) AS series,
    mapUpdate(mapUpdate(mapUpdate(
            mapFromArrays(arrayMap(key -> concat('credits.metadata.', key), kept), arrayMap(key -> leftUTF8(texts[key], 512), kept)),
            map('credits.action_type', '')), texts),
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

-- 2. Read (docs/semantic-conventions.md): first what depends on the emitter. Here, nothing does.
CREATE MATERIALIZED VIEW IF NOT EXISTS explicit_readings_mv TO readings AS
SELECT
    *,
    attributes['credits.action_type'] AS action_type,
    if(attributes['gen_ai.response.model'] != '', attributes['gen_ai.response.model'], attributes['gen_ai.request.model']) AS model,
    attributes['gen_ai.response.id'] AS response_id,
    [
        attributes['gen_ai.usage.input_tokens'],
        attributes['gen_ai.usage.output_tokens'],
        attributes['gen_ai.usage.cache_read.input_tokens'],
        if(attributes['gen_ai.usage.cache_write.input_tokens'] != '', attributes['gen_ai.usage.cache_write.input_tokens'],
            attributes['gen_ai.usage.cache_creation.input_tokens']),
        attributes['gen_ai.usage.reasoning.output_tokens']
    ] AS token_texts,
    ['input_token', 'output_token', 'cache_read_token', 'cache_write_token', 'reasoning_token'] AS token_units,
    arrayFilter((text, key) -> key IN ('gen_ai.usage.input_tokens', 'gen_ai.usage.output_tokens', 'gen_ai.usage.cache_read.input_tokens',
            'gen_ai.usage.cache_write.input_tokens', 'gen_ai.usage.cache_creation.input_tokens', 'gen_ai.usage.reasoning.output_tokens'),
        mapValues(attributes), mapKeys(attributes)) AS number_texts,
    position AS preference
FROM usage_candidates
-- The opposite of the condition of other_candidates_mv (0011).
WHERE (
    SELECT countIf(charge_genai OR NOT mapContains(attributes, 'credits.action_type') OR scope_name IN (SELECT scope_name FROM credit_conventions))
    FROM usage_candidates) = 0;

-- Then what is the same for all: numbers from texts, and what is wrong with them.
-- One query a level, because an alias that is used often is planned often, and planning is what a small insert costs.
CREATE MATERIALIZED VIEW IF NOT EXISTS usages_mv TO usages AS
WITH (SELECT arraySort(groupUniqArray(effective_from)) FROM credit_action_costs) AS price_changes
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
    if(identity = 'key', cityHash64(user_id, action_type, has_amount, stated_amount, mapSort(if(identity = 'key', units, map()))),
        toUInt64(identity = 'response' AND mapContains(attributes, 'credits.action_type'))) AS fingerprint,
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
    links,
    candidate
FROM
(
    SELECT
        *,
        if(time_unusable, received_at, fromUnixTimestamp64Micro(toInt64(intDiv(candidate.end_time_unix_nano, 1000)), 'UTC')) AS created_at,
        if(created_at >= price_changes[-1], price_changes[-1], arrayLast(changed_at -> changed_at <= created_at, price_changes)) AS price_time,
        if(empty(sent_units) AND NOT has_amount, map('call', toDecimal128(1, 12)), sent_units) AS units,
        multiIf(
            verdict = 'not_usage' OR on_estimate = 'ignore', 'not_usage',
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
            verdict = 'unknown_convention', 'unknown_convention',
            wrong AND NOT match(wrong_number, '^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?$'), 'not_a_number',
            startsWith(wrong_number, '-'), 'negative_number',
            toFloat64OrZero(wrong_number) > 1e12, 'number_out_of_range',
            wrong, 'number_not_exact',
            uncached < 0 OR tokens[6] > tokens[4] OR tokens[8] > tokens[2], 'tokens_inconsistent',
            usage_unknown, 'usage_unknown',
            on_estimate = 'quarantine', 'estimated',
            toString(verdict)) AS reason
    FROM
    (
        SELECT
            *,
            -- Spans without a valid id are told apart by what else they have, for who looks through the quarantine.
            if(trace_id_wrong OR span_id_wrong, concat(candidate.name, toString(candidate.end_time_unix_nano)), '') AS odd_id,
            if(named_user != '', named_user, candidate.default_user) AS user_id,
            multiIf(idempotency_key != '', 'key', candidate.charge_genai AND response_id != '', 'response', toString(signal)) AS identity,
            toInt64(input_tokens) - toInt64(tokens[3] + tokens[4] + tokens[7]) AS uncached,
            -- A quantity of 0 is kept where it was sent: zero is not missing. -1 marks the others.
            [
                if(token_texts[1] = '', -1, greatest(uncached, 0)),
                if(token_texts[2] = '', -1, toInt64(tokens[2]) - toInt64(tokens[8])),
                toInt64(tokens[3]) - (tokens[3] = 0),
                toInt64(tokens[4]) - toInt64(tokens[6]) - (tokens[4] = tokens[6]),
                toInt64(tokens[5]) - (tokens[5] = 0),
                toInt64(tokens[6]) - (tokens[6] = 0),
                toInt64(tokens[7]) - (tokens[7] = 0),
                toInt64(tokens[8]) - (tokens[8] = 0)
            ] AS quantities,
            mapUpdate(
                mapFromArrays(
                    arrayFilter((unit, quantity) -> quantity >= 0, token_units, arraySlice(quantities, 1, length(token_units))),
                    arrayMap(quantity -> toDecimal128(quantity, 12), arrayFilter(quantity -> quantity >= 0, arraySlice(quantities, 1, length(token_units))))),
                mapFromArrays(arrayMap(key -> substring(key, 15), stated_keys), stated_numbers)) AS sent_units,
            amount_numbers[1] AS stated_amount,
            notEmpty(wrong_tokens) OR notEmpty(wrong_numbers) AS wrong,
            concat(wrong_tokens[1], wrong_numbers[1]) AS wrong_number
        FROM
        (
            SELECT
                *,
                -- Numbers that are safe to compute with; the ones that are not are listed as wrong.
                arrayMap(text -> least(toUInt64OrZero(text), 1000000000000), token_texts) AS tokens,
                if(cache_apart, tokens[1] + tokens[3] + tokens[4], tokens[1]) AS input_tokens,
                arrayFilter(text -> ifNull(toUInt64OrNull(text), 18446744073709551615) > 1000000000000, number_texts) AS wrong_tokens,
                -- 50 decimals are read, 12 are kept: a text that needs more is refused, a binary float is rounded (half to
                -- even), since its shortest decimal form is what the app meant.
                arrayMap(text -> CAST(roundBankers(greatest(least(toDecimal256OrZero(text, 50), 1000000000000000), 0), 12), 'Decimal(38, 12)'), stated_texts) AS stated_numbers,
                arrayMap(text -> CAST(roundBankers(greatest(least(toDecimal256OrZero(text, 50), 1000000000000000), 0), 12), 'Decimal(38, 12)'), [amount_text]) AS amount_numbers,
                arrayFilter((text, key) -> length(text) > 40 OR NOT match(text, '^[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?$')
                        OR ifNull(toDecimal256OrNull(text, 50), -1) < 0 OR toDecimal256OrZero(text, 50) > 1000000000000000
                        OR (NOT has(candidate.double_keys, key) AND (
                            toDecimal256OrZero(text, 50) != roundBankers(toDecimal256OrZero(text, 50), 12)
                            OR (toDecimal256OrZero(text, 50) = 0 AND match(text, '^[^eE]*[1-9]')))),
                    if(has_amount, arrayPushBack(stated_texts, amount_text), stated_texts),
                    if(has_amount, arrayPushBack(stated_keys, 'credits.amount'), stated_keys)) AS wrong_numbers
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
                        trace_id, span_id, parent_span_id, name, kind, status_code, start_time_unix_nano, end_time_unix_nano, series, double_keys, defect, rule_id)
                        ::Tuple(signal String, batch_id UUID, received_at DateTime64(6, 'UTC'), position UInt64, charge_genai Bool, user_attributes Array(String),
                            default_user String, receiver String, allowed_services Array(String), allowed_actions Array(String), service_name String, scope_name String, scope_version String, trace_id String, span_id String,
                            parent_span_id String, name String, kind Int32, status_code Int32, start_time_unix_nano UInt64, end_time_unix_nano UInt64, series String,
                            double_keys Array(String), defect String, rule_id String) AS candidate,
                    action_type,
                    model,
                    response_id,
                    token_texts,
                    token_units,
                    cache_apart,
                    number_texts,
                    verdict,
                    preference,
                    links,
                    -- Who pays: the first attribute of the list that the span has.
                    if(empty(user_attributes), ['credits.user_id', 'user.id', 'enduser.id'], user_attributes) AS payers,
                    multiIf(
                        attributes[payers[1]] != '', attributes[payers[1]],
                        attributes[payers[2]] != '', attributes[payers[2]],
                        attributes[payers[3]] != '', attributes[payers[3]],
                        attributes[payers[4]] != '', attributes[payers[4]],
                        attributes[payers[5]] != '', attributes[payers[5]],
                        attributes[payers[6]] != '', attributes[payers[6]],
                        attributes[payers[7]] != '', attributes[payers[7]],
                        attributes[payers[8]]) AS named_user,
                    signal = 'span' AND (length(trace_id) != 16 OR trace_id = unhex('00000000000000000000000000000000')) AS trace_id_wrong,
                    signal = 'span' AND (length(span_id) != 8 OR span_id = unhex('0000000000000000')) AS span_id_wrong,
                    arrayFilter(key -> startsWith(key, 'credits.units.'), mapKeys(attributes)) AS stated_keys,
                    arrayFilter((value, key) -> startsWith(key, 'credits.units.'), mapValues(attributes), mapKeys(attributes)) AS stated_texts,
                    attributes['credits.amount'] AS amount_text,
                    mapContains(attributes, 'credits.amount') AS has_amount,
                    attributes['credits.usage_unknown'] = 'true' AS usage_unknown,
                    if(attributes['credits.metadata.estimated'] = 'true', toString(estimated), '') AS on_estimate,
                    attributes['credits.idempotency_key'] AS idempotency_key,
                    end_time_unix_nano < 946684800000000000
                        OR end_time_unix_nano > (toUInt64(greatest(toUnixTimestamp64Micro(received_at), 946684800000000)) + 2678400000000) * 1000 AS time_unusable
                FROM readings
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
                -- without a gateway's or a cloud's address of it (openai/gpt-5, models/gemini-..., us.anthropic.claude-...-v1:0, an ARN). What
                -- an endpoint of Bedrock's is called (us.) is kept until last, as it may have a price of its own.
                SELECT
                    *,
                    if(alias != '', alias, model) AS base,
                    replaceRegexpOne(base, '[-@](20\\d{6}|20\\d{2}-\\d{2}-\\d{2})$', '') AS undated,
                    replaceRegexpOne(base, '^.*/', '') AS without_address,
                    replaceRegexpOne(without_address,
                        '^(([a-z]{2,4}|us-gov|global)[.])?(anthropic|openai|google)[.](.+?)(-v[0-9]+(:[0-9]+)*(:[0-9]+k)?)?$', '\\4') AS plain,
                    arrayDistinct([model, base, undated, without_address, plain, replaceRegexpOne(plain, '[-@](20\\d{6}|20\\d{2}-\\d{2}-\\d{2})$', '')]) AS names
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
-- charged a copy meanwhile (voids.py takes one of the two back).
-- Here: blocks in which no row can be a copy of another, as all have ids of their own and other spans tell of none.
CREATE MATERIALIZED VIEW IF NOT EXISTS judged_distinct_mv TO judged_usages AS
WITH (SELECT any(batch_id) FROM rated_usages) AS this_batch
SELECT
    * EXCEPT (reason, known, known_otherwise),
    multiIf(
        t.reason = 'not_usage', 'not_usage',
        known, if(known_otherwise, 'quarantined', 'duplicate'),
        if(t.reason = '', 'charged', 'quarantined')) AS outcome,
    if(outcome != 'quarantined' OR t.reason != '', toString(t.reason), 'idempotency_conflict') AS reason
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
            WHERE event_id IN (SELECT event_id FROM rated_usages WHERE identity = 'key') AND batch_id != this_batch) AS known_otherwise
    FROM rated_usages AS r
    WHERE (SELECT countIf(notEmpty(links)) = 0 AND uniqExact(event_id) = count() FROM rated_usages)
) AS t;

-- The opposite of the condition above.
CREATE MATERIALIZED VIEW IF NOT EXISTS entangled_usages_mv TO entangled_usages AS
SELECT * FROM rated_usages
WHERE NOT (SELECT countIf(notEmpty(links)) = 0 AND uniqExact(event_id) = count() FROM rated_usages);

-- Compare: whether other spans tell of the same call. Without LLM calls in the block, none does (the opposite of the condition of
-- linked_usages_mv in 0011).
CREATE MATERIALIZED VIEW IF NOT EXISTS unlinked_usages_mv TO compared_usages AS
SELECT *, false AS copy, false AS perhaps_copy, false AS instead, false AS overruled FROM entangled_usages WHERE (SELECT countIf(notEmpty(links)) FROM entangled_usages) = 0;

-- Judge, as above, with copies in the block. They are rare, so only ids that occur more than once are looked at row by row: the first
-- that can be charged is.
CREATE MATERIALIZED VIEW IF NOT EXISTS judged_usages_mv TO judged_usages AS
WITH (SELECT any(batch_id) FROM compared_usages) AS this_batch
SELECT
    * EXCEPT (reason, known, known_otherwise, repeated, first, first_is_other, copy, perhaps_copy, instead, overruled),
    multiIf(
        t.reason = 'not_usage', 'not_usage',
        copy OR overruled, 'duplicate',
        perhaps_copy AND NOT known AND (first OR (NOT repeated AND t.reason = '')), 'quarantined',
        known AND NOT instead, if(known_otherwise, 'quarantined', 'duplicate'),
        NOT repeated, if(t.reason = '', 'charged', 'quarantined'),
        -- Of the copies of a call that know as much, the preferred one decides, even if what it tells has no price yet.
        first, if(t.reason = '', 'charged', 'quarantined'),
        first_is_other, 'quarantined',
        'duplicate') AS outcome,
    multiIf(
        outcome != 'quarantined' OR t.reason != '', toString(t.reason),
        perhaps_copy AND NOT known, 'possible_copy',
        'idempotency_conflict') AS reason
FROM
(
    SELECT
        *,
        event_id IN (
            SELECT event_id FROM event_ids_by_second
            WHERE second IN (SELECT second FROM compared_usages WHERE identity IN ('span', 'point'))
                AND event_id IN (SELECT event_id FROM compared_usages WHERE identity IN ('span', 'point'))
            GROUP BY event_id HAVING NOT max(batch_id = this_batch)
            UNION ALL
            SELECT event_id FROM event_ids_by_key
            WHERE event_id IN (SELECT event_id FROM compared_usages WHERE identity IN ('key', 'response'))
            GROUP BY event_id HAVING NOT max(batch_id = this_batch)) AS known,
        r.reason = '' AND identity = 'key' AND known AND (event_id, fingerprint) NOT IN (
            SELECT event_id, fingerprint FROM event_ids_by_key
            WHERE event_id IN (SELECT event_id FROM compared_usages WHERE identity = 'key') AND batch_id != this_batch) AS known_otherwise,
        event_id IN (
            SELECT event_id FROM compared_usages GROUP BY event_id HAVING count() > 1 AND countIf(reason = '' AND NOT overruled) > 0) AS repeated,
        position IN (
            SELECT minIf(position, NOT overruled AND (reason = '' OR (reason = 'unpriced' AND identity = 'response')))
            FROM compared_usages GROUP BY event_id HAVING count() > 1 AND countIf(reason = '' AND NOT overruled) > 0) AS first,
        r.reason = '' AND identity = 'key' AND repeated AND (event_id, fingerprint) NOT IN (
            SELECT event_id, argMinIf(fingerprint, position, reason = '' AND NOT overruled) FROM compared_usages WHERE identity = 'key' GROUP BY event_id HAVING count() > 1)
            AS first_is_other
    FROM compared_usages AS r
) AS t;
