-- What the chain keeps. Each view takes the judged rows and nothing else, so that no exception can come after the first
-- of them has written.
CREATE MATERIALIZED VIEW IF NOT EXISTS event_ids_by_second_mv TO event_ids_by_second AS
SELECT second, event_id, batch_id FROM judged_usages WHERE outcome = 'charged' AND identity IN ('span', 'point');

CREATE MATERIALIZED VIEW IF NOT EXISTS credit_usage_events_mv TO credit_usage_events AS
SELECT
    event_id,
    user_id,
    action_type,
    model,
    input_tokens,
    output_tokens,
    credits_charged,
    attributes['credits.description'] AS description,
    attributes['credits.resource_id'] AS resource_id,
    attributes['credits.resource_type'] AS resource_type,
    mapFromArrays(
        arrayMap(key -> substring(key, 18), arrayFilter(key -> startsWith(key, 'credits.metadata.'), mapKeys(attributes))),
        arrayFilter((value, key) -> startsWith(key, 'credits.metadata.'), mapValues(attributes), mapKeys(attributes))) AS metadata,
    units,
    service_name,
    lower(hex(candidate.trace_id)) AS trace_id,
    lower(hex(candidate.span_id)) AS span_id,
    created_at,
    received_at,
    batch_id,
    identity,
    prices,
    candidate.rule_id AS rule_id
FROM judged_usages WHERE outcome = 'charged';

CREATE MATERIALIZED VIEW IF NOT EXISTS user_month_usage_mv TO user_month_totals AS
SELECT
    user_id,
    toStartOfMonth(created_at) AS month,
    toDecimal128(0, 12) AS granted,
    sum(credits_charged) AS consumed,
    toInt64(count()) AS events,
    max(received_at) AS updated_at
FROM judged_usages WHERE outcome = 'charged'
GROUP BY user_id, month;

CREATE MATERIALIZED VIEW IF NOT EXISTS user_month_grants_mv TO user_month_totals AS
SELECT
    user_id,
    toStartOfMonth(created_at) AS month,
    sum(credits) AS granted,
    toDecimal128(0, 12) AS consumed,
    toInt64(0) AS events,
    max(created_at) AS updated_at
FROM credit_grants
GROUP BY user_id, month;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_month_totals_mv TO usage_month_totals AS
SELECT
    user_id,
    toStartOfMonth(created_at) AS month,
    action_type,
    model,
    toInt64(count()) AS events,
    toInt64(sum(u.input_tokens)) AS input_tokens,
    toInt64(sum(u.output_tokens)) AS output_tokens,
    sum(credits_charged) AS credits_consumed
FROM judged_usages AS u WHERE outcome = 'charged'
GROUP BY user_id, month, action_type, model;

CREATE MATERIALIZED VIEW IF NOT EXISTS user_month_corrections_mv TO user_month_totals AS
SELECT
    user_id,
    month,
    sumIf(difference, total = 'granted') AS granted,
    sumIf(difference, total = 'consumed') AS consumed,
    toInt64(sumIf(difference, total = 'events')) AS events,
    max(corrected_at) AS updated_at
FROM credit_corrections WHERE action_type = ''
GROUP BY user_id, month;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_month_corrections_mv TO usage_month_totals AS
SELECT
    user_id,
    month,
    action_type,
    model,
    toInt64(sumIf(difference, total = 'events')) AS events,
    toInt64(sumIf(difference, total = 'input_tokens')) AS input_tokens,
    toInt64(sumIf(difference, total = 'output_tokens')) AS output_tokens,
    sumIf(difference, total = 'credits_consumed') AS credits_consumed
FROM credit_corrections WHERE action_type != ''
GROUP BY user_id, month, action_type, model;

CREATE MATERIALIZED VIEW IF NOT EXISTS judged_outcomes_mv TO ingest_outcomes AS
SELECT
    receiver,
    signal,
    outcome,
    if(outcome = 'quarantined', toString(j.reason), '') AS reason,
    toInt64(count()) AS items
FROM judged_usages AS j
GROUP BY receiver, signal, outcome, reason;

CREATE MATERIALIZED VIEW IF NOT EXISTS client_usages_mv TO client_usages AS
SELECT
    service_name,
    attributes['service.instance.id'] AS service_instance_id,
    outcome,
    groupBitmapState(toUInt64OrZero(attributes['credits.seq'])) AS seqs
FROM judged_usages
WHERE mapContains(attributes, 'credits.seq') AND attributes['service.instance.id'] != '' AND length(attributes['service.instance.id']) <= 64
GROUP BY service_name, service_instance_id, outcome;

CREATE MATERIALIZED VIEW IF NOT EXISTS client_counters_mv TO client_counters AS
SELECT
    service_name,
    service_instance_id,
    name,
    p.attributes.value.string_value[indexOf(p.attributes.key, 'credits.client.reason')] AS reason,
    p.as_int AS value,
    if(name = 'credits.client.waiting', p.time_unix_nano, toUInt64(greatest(p.as_int, 0))) AS version,
    fromUnixTimestamp64Micro(toInt64(intDiv(p.start_time_unix_nano, 1000)), 'UTC') AS started_at,
    received_at
FROM
(
    SELECT received_at, service_name, service_instance_id, m.name AS name,
        arrayJoin(if(name = 'credits.client.waiting', m.gauge.data_points, m.sum.data_points)) AS p
    FROM
    (
        SELECT
            fromUnixTimestamp64Micro(envelope.received_at_us, 'UTC') AS received_at,
            rm.resource.attributes.value.string_value[indexOf(rm.resource.attributes.key, 'service.name')] AS service_name,
            rm.resource.attributes.value.string_value[indexOf(rm.resource.attributes.key, 'service.instance.id')] AS service_instance_id,
            arrayJoin(sm.metrics) AS m
        FROM (SELECT envelope, rm, arrayJoin(rm.scope_metrics) AS sm FROM (SELECT envelope, arrayJoin(resource_metrics) AS rm FROM otlp_metrics))
        WHERE sm.scope.name = 'otel_credits'
    )
    WHERE name IN ('credits.client.recorded', 'credits.client.exported', 'credits.client.failed', 'credits.client.waiting')
        AND service_instance_id != '' AND length(service_instance_id) <= 64
)
WHERE p.number = 'as_int' AND bitAnd(p.flags, 1) = 0;

-- Usages that not every insert has; the views behind this are planned for those that do.
CREATE TABLE IF NOT EXISTS rare_usages AS judged_usages ENGINE = Null;
CREATE MATERIALIZED VIEW IF NOT EXISTS rare_usages_mv TO rare_usages AS
SELECT * FROM judged_usages
WHERE outcome = 'quarantined' OR identity IN ('key', 'response') OR signal = 'point' OR user_email != '' OR notEmpty(links);

CREATE MATERIALIZED VIEW IF NOT EXISTS event_ids_by_key_mv TO event_ids_by_key AS
SELECT event_id, fingerprint, batch_id FROM rare_usages WHERE outcome = 'charged' AND identity IN ('key', 'response');

-- Only intervals that can be compared: a point without a start says nothing of what was before it, cumulative points overlap by
-- their nature, and an end that is out of range is the app's clock.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_intervals_mv TO usage_intervals AS
SELECT
    service_name, candidate.series AS series, user_id, action_type,
    candidate.start_time_unix_nano AS start_ns, candidate.end_time_unix_nano AS end_ns
FROM rare_usages
WHERE signal = 'point' AND start_ns != 0 AND start_ns <= end_ns AND NOT startsWith(candidate.defect, 'metric_')
    AND end_ns BETWEEN 946684800000000000 AND (toUnixTimestamp64Micro(received_at) + 2678400000000) * 1000;

-- Nothing of how a row is kept is planned for a block in which nothing is quarantined.
CREATE TABLE IF NOT EXISTS quarantined_usages AS judged_usages ENGINE = Null;
CREATE MATERIALIZED VIEW IF NOT EXISTS quarantined_usages_mv TO quarantined_usages AS
SELECT * FROM rare_usages WHERE outcome = 'quarantined';

CREATE MATERIALIZED VIEW IF NOT EXISTS credit_quarantine_mv TO credit_quarantine AS
WITH (SELECT groupUniqArrayArray(attribute_names) FROM credit_conventions WHERE scope_name IN (SELECT candidate.scope_name FROM quarantined_usages)) AS named
SELECT
    event_id, reason, received_at, user_id, action_type, model, signal,
    candidate.charge_genai AS charge_genai, candidate.user_attributes AS user_attributes, candidate.default_user AS default_user,
    receiver, candidate.allowed_services AS allowed_services, candidate.allowed_actions AS allowed_actions, service_name, candidate.scope_name AS scope_name, candidate.scope_version AS scope_version,
    candidate.trace_id AS trace_id, candidate.span_id AS span_id,
    candidate.parent_span_id AS parent_span_id, candidate.name AS name, candidate.kind AS kind, candidate.status_code AS status_code,
    candidate.start_time_unix_nano AS start_time_unix_nano, candidate.end_time_unix_nano AS end_time_unix_nano, candidate.series AS series,
    mapFilter((key, value) -> startsWith(key, 'credits.') OR startsWith(key, 'user.') OR startsWith(key, 'enduser.') OR has(candidate.user_attributes, key)
        OR startsWith(key, 'gen_ai.usage.') OR startsWith(key, 'llm.token_count.') OR startsWith(key, 'llm.usage.') OR startsWith(key, 'anthropic.usage.')
        OR key IN ('service.instance.id', 'gen_ai.operation.name', 'gen_ai.provider.name', 'gen_ai.system', 'gen_ai.request.model', 'gen_ai.request.stream',
            'gen_ai.response.id', 'gen_ai.response.model', 'gen_ai.response.finish_reasons',
            'anthropic.message.stop_reason', 'openinference.span.kind', 'llm.model_name', 'llm.system', 'llm.provider', 'llm.request.type', 'error.type')
        -- What a row of credit_conventions names, if it is said in one word or not at all; and what one may name, of an emitter that has
        -- none yet: counts, and what is said in one word.
        OR (has(named, key) AND match(value, '^[!-~]{0,128}$'))
        OR (position(key, 'oken') > 0 AND match(value, '^[0-9]{1,20}$'))
        OR (match(key, '[._](model|model_name|response_id|response.id|finish_reason|finish_reasons|stop_reason|service_tier|api.type|is_streaming|stream)$')
            AND match(value, '^[!-~]{1,128}$')), attributes) AS attributes,
    candidate.double_keys AS double_keys, candidate.defect AS defect, candidate.rule_id AS rule_id, batch_id
FROM quarantined_usages;

CREATE MATERIALIZED VIEW IF NOT EXISTS user_profiles_mv TO user_profiles AS
SELECT user_id AS id, argMax(user_email, received_at) AS email, '' AS name, max(received_at) AS updated_at
FROM rare_usages
WHERE user_email != '' AND outcome = 'charged'
    AND (user_id, user_email) NOT IN (
        SELECT id, argMaxIf(email, updated_at, email != '') FROM user_profiles
        WHERE id IN (SELECT user_id FROM rare_usages WHERE user_email != '') GROUP BY id)
GROUP BY user_id;

-- Requests with a span that does not say itself that it is usage; nothing below is planned for the others.
CREATE TABLE IF NOT EXISTS other_traces AS otlp_traces ENGINE = Null;
CREATE MATERIALIZED VIEW IF NOT EXISTS other_traces_mv TO other_traces AS
SELECT * FROM otlp_traces
WHERE arrayExists(scopes -> arrayExists(spans -> arrayExists(keys -> NOT has(keys, 'credits.action_type'), spans), scopes),
    resource_spans.scope_spans.spans.attributes.key);

-- Spans that the library forwarded without knowing whether they are usage. Those that no rule, or no convention, made a usage are
-- seen by no other view, and would be missing to the process that numbered them.
CREATE MATERIALIZED VIEW IF NOT EXISTS client_arrivals_mv TO client_usages AS
SELECT service_name, service_instance_id, 'arrived' AS outcome, groupBitmapState(toUInt64(seq)) AS seqs
FROM
(
    SELECT
        service_name, service_instance_id,
        arrayJoin(arrayFilter(seq -> seq > 0, arrayMap(
            (keys, numbers) -> if(has(keys, 'credits.action_type'), 0, numbers[indexOf(keys, 'credits.seq')]),
            ss.spans.attributes.key, ss.spans.attributes.value.int_value))) AS seq
    FROM
    (
        SELECT
            rs.resource.attributes.value.string_value[indexOf(rs.resource.attributes.key, 'service.name')] AS service_name,
            rs.resource.attributes.value.string_value[indexOf(rs.resource.attributes.key, 'service.instance.id')] AS service_instance_id,
            arrayJoin(rs.scope_spans) AS ss
        FROM (SELECT arrayJoin(resource_spans) AS rs FROM other_traces)
    )
    WHERE service_instance_id != '' AND length(service_instance_id) <= 64
)
GROUP BY service_name, service_instance_id;

-- Spans and data points that no view above looks at. The conditions are the opposite of those in span_candidates_mv and
-- point_candidates_mv. What a billing rule makes of a span is taken off again (0011, ruled_spans_mv).
CREATE MATERIALIZED VIEW IF NOT EXISTS other_spans_mv TO ingest_outcomes AS
SELECT envelope.receiver AS receiver, 'span' AS signal, 'not_usage' AS outcome, '' AS reason, toInt64(sum(others)) AS items
FROM
(
    SELECT
        envelope,
        arrayCount(keys -> NOT (has(keys, 'credits.action_type')
            OR (envelope.charge_genai AND (has(keys, 'gen_ai.operation.name') OR has(keys, 'openinference.span.kind')
                OR has(keys, 'llm.request.type') OR arrayExists(key -> position(key, 'oken') > 0, keys)))),
            ss.spans.attributes.key) AS others
    FROM (SELECT envelope, arrayJoin(arrayJoin(resource_spans).scope_spans) AS ss FROM other_traces)
)
GROUP BY receiver
HAVING items > 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS other_points_mv TO ingest_outcomes AS
SELECT envelope.receiver AS receiver, 'point' AS signal, 'not_usage' AS outcome, '' AS reason, toInt64(sum(others)) AS items
FROM
(
    SELECT
        envelope,
        if(m.name = 'credits.usage',
            arrayCount(point -> bitAnd(point.flags, 1) = 1, m.sum.data_points) + arrayCount(point -> bitAnd(point.flags, 1) = 1, m.gauge.data_points),
            length(m.sum.data_points) + length(m.gauge.data_points) + length(m.histogram.data_points)
                + length(m.exponential_histogram.data_points) + length(m.summary.data_points)) AS others
    FROM (SELECT envelope, arrayJoin(arrayJoin(arrayJoin(resource_metrics).scope_metrics).metrics) AS m FROM otlp_metrics)
)
GROUP BY receiver
HAVING items > 0;
