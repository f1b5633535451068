-- The ledger: what was used and charged, what was granted, and the totals that views keep of both.
-- Every target of the chain has a deduplication window, so that a batch that is inserted again with the same token
-- is completed, never repeated (without the window on a target, its view would count the retry again).

CREATE TABLE IF NOT EXISTS credit_usage_events
(
    event_id UUID COMMENT 'identity of the usage: hash of the idempotency key, the response id, or trace and span id',
    user_id String COMMENT 'who pays',
    action_type LowCardinality(String),
    model LowCardinality(String) COMMENT 'the model that answered, else the one asked for; empty if none',
    input_tokens Int64 COMMENT 'total, cached tokens included',
    output_tokens Int64 COMMENT 'total, reasoning included',
    credits_charged Decimal(38, 12),
    description String,
    resource_id String,
    resource_type LowCardinality(String),
    metadata Map(String, String),
    units Map(String, Decimal(38, 12)) COMMENT 'what was counted: unit to quantity',
    service_name LowCardinality(String),
    trace_id String COMMENT 'lower-case hex; empty for a metric data point',
    span_id String,
    created_at DateTime64(6, 'UTC') COMMENT 'end of the usage, by the clock of the app',
    received_at DateTime64(6, 'UTC') COMMENT 'when the aggregator received it',
    batch_id UUID COMMENT 'the insert that brought it',
    identity LowCardinality(String) COMMENT 'what event_id was made of: key, response, span, point',
    prices Map(String, Decimal(38, 12)) COMMENT 'unit to price that applied; empty if the app set the amount',
    rule_id LowCardinality(String) COMMENT 'the billing rule that made the span a usage; empty if it says so itself',
    sign Int8 DEFAULT 1 COMMENT '-1: an entry that takes back the charge with the same event_id and batch_id; sum(sign) counts usages'
)
ENGINE = MergeTree
ORDER BY (user_id, created_at, event_id)
-- Small parts in one file a part: an insert that makes a file for each column and map costs a tenth more. Twelve or so of them are
-- merged at once instead of six: merging is half the work then, and totals, which are read most, have tables of their own.
SETTINGS non_replicated_deduplication_window = 10000, min_bytes_for_wide_part = 268435456, merge_selector_base = 12;

-- Identities that carry their own time are found by it: a copy of a span ends in the same second as the span.
CREATE TABLE IF NOT EXISTS event_ids_by_second
(
    second DateTime('UTC'),
    event_id UUID,
    batch_id UUID
)
ENGINE = MergeTree
ORDER BY (second, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- Identities that may come back at any time: idempotency keys and response ids. Small granules and small compressed
-- blocks, because each look-up is for one random id (measured: 10 times faster at 40 million ids).
CREATE TABLE IF NOT EXISTS event_ids_by_key
(
    event_id UUID,
    fingerprint UInt64 COMMENT 'of a key: hash of payer, action and quantities, to tell a repetition from a conflict. Of a response id: 1 if the usage says itself what it is',
    batch_id UUID
)
ENGINE = MergeTree
ORDER BY event_id
SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 128,
    min_compress_block_size = 2048, max_compress_block_size = 4096;

-- What tells that two spans are one LLM call where no response id does: hashes of where the charged one stands in its trace, and
-- of its token counts. Kept for as long as copies of a call can be expected. Only with OTEL_CREDITS_CHARGE_GENAI=on.
CREATE TABLE IF NOT EXISTS call_links
(
    place UUID COMMENT 'hash of a place in a trace, a role and token counts',
    role LowCardinality(String) COMMENT 'within: a call below the span of the place; encloses: the usage that is this span; executes: a tool below it; overrules: a span that knows so much of the call, which waits or was charged; others as in 0011',
    scope_name LowCardinality(String) COMMENT 'of the charged span',
    event_id UUID COMMENT 'what was charged, of the roles within and encloses; which span, of overrules',
    batch_id UUID,
    received_at DateTime('UTC')
)
ENGINE = MergeTree
ORDER BY place
TTL received_at + INTERVAL 3 DAY
SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 128,
    min_compress_block_size = 2048, max_compress_block_size = 4096;

CREATE TABLE IF NOT EXISTS credit_grants
(
    grant_id String DEFAULT toString(generateUUIDv4()) COMMENT 'idempotency key of the grant',
    user_id String,
    credits Decimal(38, 12),
    reason String,
    expires_at Nullable(DateTime64(6, 'UTC')),
    created_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = MergeTree
ORDER BY (user_id, created_at, grant_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- Running totals, one row a user and month after merging.
CREATE TABLE IF NOT EXISTS user_month_totals
(
    user_id String,
    month Date,
    granted Decimal(38, 12),
    consumed Decimal(38, 12),
    events Int64,
    updated_at SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = SummingMergeTree((granted, consumed, events))
ORDER BY (user_id, month)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS usage_month_totals
(
    user_id String,
    month Date,
    action_type LowCardinality(String),
    model LowCardinality(String),
    events Int64,
    input_tokens Int64,
    output_tokens Int64,
    credits_consumed Decimal(38, 12)
)
ENGINE = SummingMergeTree((events, input_tokens, output_tokens, credits_consumed))
ORDER BY (user_id, month, action_type, model)
SETTINGS non_replicated_deduplication_window = 10000;

-- Corrections of running totals that were not the sum of their entries (otel-credits reconcile --fix). A view adds each to
-- its total; the events and grants themselves are never changed.
CREATE TABLE IF NOT EXISTS credit_corrections
(
    user_id String,
    month Date,
    action_type LowCardinality(String) COMMENT 'empty: a total behind the balance',
    model LowCardinality(String),
    total LowCardinality(String) COMMENT 'which: granted, consumed, events, credits_consumed, input_tokens, output_tokens',
    before Decimal(38, 12),
    after Decimal(38, 12) COMMENT 'the sum of the entries',
    difference Decimal(38, 12) COMMENT 'what was added to the total',
    corrected_by String,
    comment String COMMENT 'why',
    corrected_at DateTime64(6, 'UTC'),
    insert_id UUID COMMENT 'the insert that brought it: if a total has not got it, the next correction inserts it again, under the same token'
)
ENGINE = MergeTree
ORDER BY (user_id, month, corrected_at)
SETTINGS non_replicated_deduplication_window = 10000;

-- What could not be charged, with the reason and all that is needed to charge it later.
CREATE TABLE IF NOT EXISTS credit_quarantine
(
    event_id UUID,
    reason LowCardinality(String),
    detail String COMMENT 'what exactly, and what to do',
    received_at DateTime64(6, 'UTC'),
    quarantine_id UUID DEFAULT generateUUIDv4() COMMENT 'this row; copies of one usage share the event_id',
    items UInt64 DEFAULT 1 COMMENT 'spans or data points that the row stands for; more than 1 only for a raw request',
    user_id String,
    action_type String,
    model String,
    signal LowCardinality(String) COMMENT 'span or point',
    charge_genai Bool,
    user_attributes Array(String),
    default_user String,
    receiver String,
    allowed_services Array(String) COMMENT 'what the token of the sender may charge for; empty: any',
    allowed_actions Array(String),
    service_name String,
    scope_name String,
    scope_version String,
    trace_id String COMMENT 'raw bytes as received',
    span_id String COMMENT 'raw bytes as received',
    parent_span_id String COMMENT 'raw bytes as received',
    name String,
    kind Int32,
    status_code Int32,
    start_time_unix_nano UInt64,
    end_time_unix_nano UInt64,
    series String COMMENT 'identity of a data point: its series; empty for a span',
    attributes Map(String, String) COMMENT 'those of the conventions; prompts and answers are not kept',
    double_keys Array(String),
    defect LowCardinality(String),
    rule_id String COMMENT 'the billing rule that made the span a usage',
    raw_request String COMMENT 'a request that could not be inserted, as received but for prompts, answers and whatever else no charge needs',
    batch_id UUID
)
ENGINE = MergeTree
ORDER BY (received_at, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- What people decided about quarantined rows: one row for each that was assigned to a payer or discarded, as it was then.
CREATE TABLE IF NOT EXISTS quarantine_decisions
(
    decision LowCardinality(String) COMMENT 'assigned or discarded',
    decided_by String,
    comment String COMMENT 'why',
    decided_at DateTime64(6, 'UTC'),
    quarantine_id UUID,
    event_id UUID,
    reason LowCardinality(String) COMMENT 'why it was in the quarantine',
    detail String,
    received_at DateTime64(6, 'UTC'),
    items UInt64,
    user_id String COMMENT 'who was made to pay; of what was discarded: who was named',
    action_type String,
    model String,
    signal LowCardinality(String),
    service_name String,
    receiver String,
    trace_id String,
    span_id String,
    name String,
    attributes Map(String, String),
    raw_bytes UInt64 COMMENT 'size of the request that was discarded, if it was kept as bytes'
)
ENGINE = MergeTree
ORDER BY (decided_at, quarantine_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- What became of every span and data point: charged, duplicate, not_usage, quarantined.
CREATE TABLE IF NOT EXISTS ingest_outcomes
(
    receiver String COMMENT 'the aggregator that received it',
    signal LowCardinality(String),
    outcome LowCardinality(String),
    reason LowCardinality(String),
    items Int64
)
ENGINE = SummingMergeTree(items)
ORDER BY (receiver, signal, outcome, reason)
SETTINGS non_replicated_deduplication_window = 10000;

-- What arrived of each process that numbers its usages (credits.seq): sets of numbers, so that copies count once.
CREATE TABLE IF NOT EXISTS client_usages
(
    service_name String,
    service_instance_id String COMMENT 'the process',
    outcome LowCardinality(String) COMMENT 'charged, duplicate, quarantined, not_usage; arrived: no usage unless a rule says so',
    seqs AggregateFunction(groupBitmap, UInt64)
)
ENGINE = AggregatingMergeTree
ORDER BY (service_name, service_instance_id, outcome)
SETTINGS non_replicated_deduplication_window = 10000;

-- What each process says of itself (metrics credits.client.*). The row with the highest version is the newest: the value of a
-- counter, which only grows, or the time of a gauge.
CREATE TABLE IF NOT EXISTS client_counters
(
    service_name String,
    service_instance_id String,
    name LowCardinality(String),
    reason LowCardinality(String) COMMENT 'of credits.client.failed',
    value Int64,
    version UInt64,
    started_at DateTime64(6, 'UTC'),
    received_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (service_name, service_instance_id, name, reason)
SETTINGS non_replicated_deduplication_window = 10000;

-- The intervals of the data points that arrived, whatever became of them: the intervals of a series should follow one another.
-- Copies of one interval are one row once parts are merged; series_gaps.sql does not wait for that.
CREATE TABLE IF NOT EXISTS usage_intervals
(
    service_name String,
    series String COMMENT 'resource, scope and attributes, hashed',
    user_id String,
    action_type String,
    start_ns UInt64 COMMENT 'nanoseconds since 1970',
    end_ns UInt64
)
ENGINE = ReplacingMergeTree
ORDER BY (series, start_ns, end_ns)
SETTINGS non_replicated_deduplication_window = 10000;

-- What is known of users; the newest non-empty value of each column counts (view users).
CREATE TABLE IF NOT EXISTS user_profiles
(
    id String,
    email String,
    name String,
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = MergeTree
ORDER BY (id, updated_at)
SETTINGS non_replicated_deduplication_window = 10000;
