-- Taking a charge back. The events are never changed: a further entry with the opposite quantities and credits, in the same month
-- and under the same event_id, makes every sum what it would be without the charge.

-- Charges that were taken back, each as it was, with who did it and why. Everything else follows from a row of it, by views.
CREATE TABLE IF NOT EXISTS credit_voids
(
    event_id UUID,
    batch_id UUID COMMENT 'the insert that brought the charge',
    kind LowCardinality(String) COMMENT 'void: someone decided it; duplicate: it was charged otherwise, by another aggregator or as the app says itself',
    voided_by String,
    comment String COMMENT 'why',
    voided_at DateTime64(6, 'UTC'),
    receiver String COMMENT 'the aggregator that received the duplicate',
    user_id String,
    action_type LowCardinality(String),
    model LowCardinality(String),
    input_tokens Int64,
    output_tokens Int64,
    credits_charged Decimal(38, 12) COMMENT 'what was given back',
    resource_id String,
    resource_type LowCardinality(String),
    metadata Map(String, String),
    units Map(String, Decimal(38, 12)),
    service_name LowCardinality(String),
    trace_id String,
    span_id String,
    created_at DateTime64(6, 'UTC') COMMENT 'end of the usage',
    identity LowCardinality(String),
    prices Map(String, Decimal(38, 12)),
    rule_id LowCardinality(String)
)
ENGINE = MergeTree
ORDER BY (event_id, batch_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- How to find the ids that an insert charged: by the seconds in which its spans ended, or one by one.
CREATE TABLE IF NOT EXISTS charged_batches
(
    batch_id UUID,
    receiver String,
    seconds Array(DateTime('UTC')),
    keys Array(UUID) COMMENT 'ids that do not carry their own time',
    places Array(UUID) COMMENT 'of LLM calls and usages around them: where in call_links',
    charged_at DateTime('UTC'),
    inserted_at DateTime('UTC') DEFAULT now() COMMENT 'by the store''s clock'
)
ENGINE = MergeTree
ORDER BY batch_id
TTL charged_at + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Charges of what another insert has charged, too: each is to be taken back by the aggregator that made it. Which one stays is the
-- same for whoever looks: what the app says itself, then the one with the smallest batch_id. A row that is noted twice says the
-- same. What an aggregator that is gone has not taken back, another one does.
CREATE TABLE IF NOT EXISTS double_charges
(
    batch_id UUID,
    event_id UUID,
    stays UUID COMMENT 'the event whose charge stays: the same one, or the usage of the app around a call',
    noted_at DateTime('UTC') DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY (batch_id, event_id, stays)
TTL noted_at + INTERVAL 30 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS charged_batches_mv TO charged_batches AS
SELECT
    batch_id,
    any(receiver) AS receiver,
    groupUniqArrayIf(second, identity IN ('span', 'point')) AS seconds,
    groupArrayIf(event_id, identity IN ('key', 'response')) AS keys,
    arrayDistinct(groupArrayArray(arrayMap(link -> link.place, arrayFilter(link -> link.role IN ('within', 'encloses'), links)))) AS places,
    toDateTime(max(received_at)) AS charged_at
FROM judged_usages WHERE outcome = 'charged'
GROUP BY batch_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS voided_events_mv TO credit_usage_events AS
SELECT
    event_id, user_id, action_type, model,
    -v.input_tokens AS input_tokens,
    -v.output_tokens AS output_tokens,
    -v.credits_charged AS credits_charged,
    concat(kind, ': ', comment) AS description,
    resource_id, resource_type, metadata,
    mapApply((unit, quantity) -> (unit, CAST(-quantity, 'Decimal(38, 12)')), v.units) AS units,
    service_name, trace_id, span_id, created_at,
    voided_at AS received_at,
    batch_id, identity, prices, rule_id,
    toInt8(-1) AS sign
FROM credit_voids AS v;

CREATE MATERIALIZED VIEW IF NOT EXISTS user_month_voids_mv TO user_month_totals AS
SELECT
    user_id,
    toStartOfMonth(created_at) AS month,
    toDecimal128(0, 12) AS granted,
    -sum(credits_charged) AS consumed,
    -toInt64(count()) AS events,
    max(voided_at) AS updated_at
FROM credit_voids
GROUP BY user_id, month;

CREATE MATERIALIZED VIEW IF NOT EXISTS usage_month_voids_mv TO usage_month_totals AS
SELECT
    user_id,
    toStartOfMonth(created_at) AS month,
    action_type,
    model,
    -toInt64(count()) AS events,
    -sum(v.input_tokens) AS input_tokens,
    -sum(v.output_tokens) AS output_tokens,
    -sum(credits_charged) AS credits_consumed
FROM credit_voids AS v
GROUP BY user_id, month, action_type, model;

-- A copy that should not have been charged was a duplicate. What someone decided to take back was charged.
CREATE MATERIALIZED VIEW IF NOT EXISTS duplicate_outcomes_mv TO ingest_outcomes AS
SELECT receiver, signal, moved.1 AS outcome, '' AS reason, sum(moved.2) AS items
FROM
(
    SELECT receiver, if(trace_id = '', 'point', 'span') AS signal, arrayJoin([('charged', toInt64(-1)), ('duplicate', toInt64(1))]) AS moved
    FROM credit_voids WHERE kind = 'duplicate'
)
GROUP BY receiver, signal, outcome;
