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
ORDER BY (action_type, model, unit, effective_from, created_at);

-- How an instrumentation reports tokens, found by the name of its scope. Only what is listed is charged
-- automatically; any other emitter of token attributes is quarantined as unknown_convention.
CREATE TABLE IF NOT EXISTS credit_conventions
(
    scope_name String,
    input_includes_cache Bool COMMENT 'whether the input attribute counts cached tokens too',
    source String COMMENT 'where this was measured',
    created_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = MergeTree
ORDER BY (scope_name, created_at);
