-- What a batch reads of these four tables ends where each of them ended when the batch was composed, so that an insert that is
-- repeated prices as its first attempt did. That is told by the number of the block that brought a row, which the tables keep.

-- The price book. A price applies from effective_from on, to usage that ends then or later; the most specific row wins
-- (action and model, action, model, neither), then the latest effective_from, then the latest created_at.
-- A row without effective_from applies from now on; if it is the first of its action, model and unit, also to usage
-- before it that no other row prices, so that what waits as unpriced is charged.
CREATE TABLE IF NOT EXISTS credit_action_costs
(
    action_type String DEFAULT '*' COMMENT 'or * for any',
    model String DEFAULT '*' COMMENT 'or * for any',
    unit String DEFAULT 'call',
    credits_per_unit Decimal(38, 12),
    effective_from DateTime64(6, 'UTC') DEFAULT created_at,
    source String COMMENT 'where the price is from',
    created_at DateTime64(6, 'UTC') DEFAULT now64(6),
    CONSTRAINT price_is_not_negative CHECK credits_per_unit >= 0,
    CONSTRAINT names_are_not_empty CHECK action_type != '' AND model != '' AND unit != ''
)
ENGINE = MergeTree
ORDER BY (action_type, model, unit, effective_from, created_at)
SETTINGS enable_block_number_column = 1;

-- How an instrumentation reports tokens, found by the name and the version of its scope (and by the provider it calls, where
-- that matters). Only what is listed is charged automatically; any other emitter of token attributes is quarantined as
-- unknown_convention, until a row says what its attributes mean. Columns that a row leaves out have the names of OpenTelemetry's
-- conventions. Rows are added, never changed: of the rows of one scope, version_from and provider the newest counts. Of several
-- that match then, the one with the latest version_from counts, then one that names the provider.
--
-- What an emitter tells within the JSON of an attribute is named by the attribute, # and a JSON pointer (RFC 6901):
-- output.value#/usage/service_tier. Text and numbers are read as they are, a list as [3] and an object as {3} if they hold three;
-- what is not there, and null, is nothing.
CREATE TABLE IF NOT EXISTS credit_conventions
(
    scope_name String,
    version_from String DEFAULT '' COMMENT 'first version that does so; empty: any',
    version_until String DEFAULT '' COMMENT 'first version that does otherwise; empty: none yet',
    provider String DEFAULT '' COMMENT 'gen_ai.provider.name in lower case (else gen_ai.system, llm.provider, llm.system); empty: any',
    input_attribute String DEFAULT 'gen_ai.usage.input_tokens',
    output_attribute String DEFAULT 'gen_ai.usage.output_tokens' COMMENT 'reasoning included',
    cache_read_attribute String DEFAULT 'gen_ai.usage.cache_read.input_tokens',
    cache_write_attribute String DEFAULT 'gen_ai.usage.cache_write.input_tokens' COMMENT 'all writes, of whatever lifetime',
    cache_write_1h_attribute String DEFAULT '' COMMENT 'those of the writes that live an hour',
    reasoning_attribute String DEFAULT 'gen_ai.usage.reasoning.output_tokens',
    input_audio_attribute String DEFAULT '' COMMENT 'those of the uncached input tokens that were audio',
    output_audio_attribute String DEFAULT '' COMMENT 'those of the output tokens that were audio',
    input_includes_cache Bool DEFAULT true COMMENT 'whether the input attribute counts cached tokens too',
    cache_unknown_from UInt64 DEFAULT 0 COMMENT 'from so many input tokens on, no cache-read attribute means not known; 0: it means none',
    model_attribute String DEFAULT 'gen_ai.response.model',
    request_model_attribute String DEFAULT 'gen_ai.request.model' COMMENT 'the model, if the first is not there',
    response_id_attribute String DEFAULT 'gen_ai.response.id',
    finish_attribute String DEFAULT '' COMMENT 'what only a call that was answered to its end has; empty: any known one, asked for with Anthropic only',
    service_tier_attribute String DEFAULT '',
    request_service_tier_attribute String DEFAULT 'openai.request.service_tier' COMMENT 'the tier, if the answer tells none',
    price_attributes Array(String) DEFAULT [] COMMENT 'what else sets a price: said to be none of the standard words, it is part of each unit''s name, as a tier is',
    answers_attribute String DEFAULT '' COMMENT 'how many answers there were, as a number or a list, where more than one are counted wrong; empty: not asked',
    stream_attributes Array(String) DEFAULT [] COMMENT 'one of them is there, and not false, if the call was a stream',
    stream_order Array(String) DEFAULT [] COMMENT 'two attributes that come in this order unless the call was a stream',
    stream_flaw LowCardinality(String) DEFAULT '' COMMENT 'what of a stream is not to be trusted: output; cache_zero (cached counts of 0); cache_absent (a missing cache-read count)',
    several_calls Bool DEFAULT false COMMENT 'whether a span may be of several calls, of which it tells the last only: then a tool is executed below it, or a stream has several finish reasons',
    total_attribute String DEFAULT '' COMMENT 'input and output in all; empty: gen_ai.usage.total_tokens or llm.token_count.total, which go before it',
    count_attribute String DEFAULT '' COMMENT 'is there if the tokens of a prompt were only counted, which is no call',
    earlier_calls_attribute String DEFAULT '' COMMENT 'the calls before the last, of which alone it tells, as a number or a list; nothing if there were none',
    preference UInt8 DEFAULT 9 COMMENT 'of copies of a call in one insert the lowest is charged',
    source String COMMENT 'where this was measured or is documented',
    enabled Bool DEFAULT true COMMENT 'false: from this row on, there is none for its scope, version_from and provider',
    created_at DateTime64(6, 'UTC') DEFAULT now64(6),
    attribute_names Array(String) MATERIALIZED arrayFilter(name -> name != '', arrayConcat([input_attribute, output_attribute, cache_read_attribute,
        cache_write_attribute, cache_write_1h_attribute, reasoning_attribute, input_audio_attribute, output_audio_attribute, model_attribute,
        request_model_attribute, response_id_attribute, finish_attribute, service_tier_attribute, request_service_tier_attribute, answers_attribute,
        earlier_calls_attribute, total_attribute, count_attribute], price_attributes, stream_attributes, stream_order)) COMMENT 'all that it names',
    json_attributes Array(String) MATERIALIZED arraySort(arrayDistinct(arrayFilter(name -> position(name, '#') > 0, attribute_names))) COMMENT 'those of them that are within JSON',
    json_places Array(Tuple(name String, attribute String, type_attribute String, steps Array(String))) MATERIALIZED arrayMap(name -> (
        name,
        substring(name, 1, position(name, '#') - 1),
        if(match(name, '^[^#]*[.]value#'), replaceRegexpOne(name, 'value#.*$', 'mime_type'), ''),
        arrayMap(step -> replaceAll(replaceAll(step, '~1', '/'), '~0', '~'), arraySlice(splitByChar('/', substring(name, position(name, '#') + 1)), 2))),
        json_attributes) COMMENT 'the same taken apart: the attribute, the one that has to say that it is JSON, and the steps of the pointer',
    CONSTRAINT stream_flaw_is_known CHECK stream_flaw IN ('', 'output', 'cache_zero', 'cache_absent')
)
ENGINE = MergeTree
ORDER BY (scope_name, created_at)
SETTINGS enable_block_number_column = 1;

-- Billing rules: what makes a span usage that does not say so itself. Every condition of a rule must hold; of the rules
-- that match a span, the first by priority, then by id, decides. Rows are added, never changed: of each rule the newest
-- row that was there when the request was received counts, so that an insert that is repeated decides the same again.
CREATE TABLE IF NOT EXISTS credit_rules
(
    rule_id String,
    enabled Bool DEFAULT false,
    priority Int32 DEFAULT 100 COMMENT 'the lowest number is asked first',
    attributes Map(String, String) COMMENT 'attributes that the span has, with exactly this text',
    attribute_prefixes Map(String, String) COMMENT 'attributes that the span has, and how their text begins; empty: any text',
    span_name String COMMENT 'in this and the next five: empty is any',
    span_name_prefix String,
    kind LowCardinality(String) COMMENT 'internal, server, client, producer, consumer',
    scope_name String COMMENT 'the instrumentation',
    service_name String,
    status LowCardinality(String) COMMENT 'unset, ok, error',
    charge_failed Bool DEFAULT false COMMENT 'whether a span with status error is charged; if not, it is free',
    action_type String,
    quantities Map(String, String) DEFAULT map('call', 'one') COMMENT 'unit to where its quantity is from: one, seconds, attribute:NAME',
    note String COMMENT 'what it is for',
    created_at DateTime64(6, 'UTC') DEFAULT now64(6),
    CONSTRAINT names_are_given CHECK rule_id != '' AND action_type != '' AND greatest(length(rule_id), length(action_type)) <= 512,
    CONSTRAINT kind_is_known CHECK kind IN ('', 'internal', 'server', 'client', 'producer', 'consumer'),
    CONSTRAINT status_is_known CHECK status IN ('', 'unset', 'ok', 'error'),
    CONSTRAINT failed_is_clear CHECK status != 'error' OR charge_failed,
    CONSTRAINT some_condition CHECK notEmpty(attributes) OR notEmpty(attribute_prefixes)
        OR notEmpty(concat(span_name, span_name_prefix, kind, scope_name, service_name, status)),
    CONSTRAINT keys_are_given CHECK NOT has(mapKeys(attributes), '') AND NOT has(mapKeys(attribute_prefixes), ''),
    CONSTRAINT quantities_are_known CHECK notEmpty(quantities) AND arrayAll((unit, source) -> unit != ''
        AND match(source, '^(one|seconds|attribute:.+)$'), mapKeys(quantities), mapValues(quantities))
)
ENGINE = MergeTree
ORDER BY (rule_id, created_at)
SETTINGS enable_block_number_column = 1;

-- Each row of an enabled rule as the chain asks it, with the time in which it counts: from_us until before until_us, in
-- microseconds since 1970. A kind or status of 0 is any.
CREATE VIEW IF NOT EXISTS rules_in_force AS
SELECT
    toUnixTimestamp64Micro(created_at) AS from_us,
    until_us,
    CAST((priority, rule_id, from_us, until_us, indexOf(['internal', 'server', 'client', 'producer', 'consumer'], toString(kind)), indexOf(['unset', 'ok', 'error'], toString(status)),
        charge_failed, scope_name, service_name, span_name, span_name_prefix, mapKeys(attributes), mapValues(attributes),
        mapKeys(attribute_prefixes), mapValues(attribute_prefixes), action_type, mapKeys(quantities), mapValues(quantities)),
        'Tuple(priority Int32, id String, from_us Int64, until_us Int64, kind Int32, status Int32,
            charge_failed Bool, scope String, service String, name String, name_prefix String, keys Array(String), texts Array(String),
            prefix_keys Array(String), prefixes Array(String), action String, units Array(String), sources Array(String))') AS rule
FROM
(
    SELECT *, leadInFrame(toUnixTimestamp64Micro(created_at), 1, 9223372036854775807)
        OVER (PARTITION BY rule_id ORDER BY created_at ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS until_us
    FROM credit_rules
)
WHERE enabled;

-- Models under another name: an Azure deployment, a gateway's own name. Prices are looked up by both; the events keep the name that
-- was reported. The newest row of a name counts.
CREATE TABLE IF NOT EXISTS credit_model_aliases
(
    model String COMMENT 'as reported',
    price_model String COMMENT 'as the price book names it, with or without the date of a snapshot',
    source String,
    created_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = MergeTree
ORDER BY (model, created_at)
SETTINGS enable_block_number_column = 1;
