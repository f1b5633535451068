-- A starter price book, so that a fresh store charges something sensible: 1 credit = 1 US dollar of list price.
-- Every row says where its price is from and when it was read. A row that is already there is never touched or
-- repeated, so that this file can be applied again. To change a price, add a row with a later effective_from.

-- What an action costs when the app states no amount (the same numbers as get_task_credit_cost in the library).
INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source)
SELECT action_type, '*', 'call', cost, toDateTime64('1970-01-01 00:00:00', 6, 'UTC'), 'predefined cost of otel-credits 0.1.0, of 2026-11-22'
FROM values(
    'action_type String, cost Decimal(38, 12)',
    ('workflow_execution', '0.001'),
    ('youtube_sync', '0.005'),
    ('analytics_generation', '0.002'),
    ('bulk_operation', '0.01'))
WHERE (action_type, '*', 'call', toDateTime64('1970-01-01 00:00:00', 6, 'UTC'))
    NOT IN (SELECT action_type, model, unit, effective_from FROM credit_action_costs);

-- US dollars per 1,000,000 tokens, as the providers' price pages print them; the store keeps dollars per token.
-- Models are named without the date of a snapshot, which the chain takes off before it looks a price up. `since` is the
-- model's launch, or the first day on which today's price is documented; what was used before it stays unpriced until
-- someone adds its price. Where a price depends on the length of the prompt, the lowest band is taken, and the note says so.

-- Claude. Writing to the cache costs what the 5-minute cache costs; the 1-hour cache costs twice the input price.
INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source)
SELECT '*', model, price.1, price.2 / 1000000, since,
    concat('https://platform.claude.com/docs/en/about-claude/pricing, checked against LiteLLM 1.109.1 and genai-prices 0.2.3, read 2026-11-22; 5-minute cache writes', note)
FROM values(
    'model String, since DateTime64(6, \'UTC\'), input Decimal(38, 12), cache_read Decimal(38, 12), cache_write Decimal(38, 12), output Decimal(38, 12), note String',
    ('claude-fable-5',    '2026-06-09', '10',   '1',    '12.5',  '50',  ''),
    ('claude-fable-5-1',  '2026-09-01', '10',   '0.25', '12.5',  '50',  ''),
    ('claude-opus-4-5',   '2025-11-24', '5',    '0.5',  '6.25',  '25',  ''),
    ('claude-opus-4-6',   '2026-02-05', '5',    '0.5',  '6.25',  '25',  '; until 2026-03-13 prompts over 200,000 tokens cost more, which is not modelled'),
    ('claude-opus-4-7',   '2026-04-16', '5',    '0.5',  '6.25',  '25',  ''),
    ('claude-opus-4-8',   '2026-05-28', '5',    '0.5',  '6.25',  '25',  ''),
    ('claude-opus-5',     '2026-07-24', '5',    '0.5',  '6.25',  '25',  ''),
    ('claude-opus-5-5',   '2026-09-22', '4',    '0.2',  '5',     '20',  ''),
    ('claude-sonnet-4-5', '2025-09-29', '3',    '0.3',  '3.75',  '15',  '; until 2026-04-30 prompts over 200,000 tokens cost more, which is not modelled'),
    ('claude-sonnet-4-6', '2026-02-17', '3',    '0.3',  '3.75',  '15',  '; until 2026-03-13 prompts over 200,000 tokens cost more, which is not modelled'),
    ('claude-sonnet-5',   '2026-06-30', '2',    '0.2',  '2.5',   '10',  ''),
    ('claude-sonnet-5-5', '2026-09-28', '2',    '0.2',  '2.5',   '10',  '; the cache-read price until 2026-10-07'),
    ('claude-sonnet-5-5', '2026-10-07', '2',    '0.1',  '2.5',   '10',  ''),
    ('claude-haiku-4-5',  '2025-10-15', '1',    '0.1',  '1.25',  '5',   ''),
    ('claude-haiku-5-5',  '2026-10-07', '0.1',  '0.01', '0.125', '0.5', '; prompts up to 100,000 tokens, longer ones cost 5 times as much, which is not modelled'))
ARRAY JOIN [('input_token', input), ('cache_read_token', cache_read), ('cache_write_token', cache_write), ('cache_write_1h_token', 2 * input), ('output_token', output)] AS price
WHERE ('*', model, price.1, since) NOT IN (SELECT action_type, model, unit, effective_from FROM credit_action_costs);

-- Claude on Bedrock through a geographic endpoint (us., eu., ...) costs a tenth more than in one region or through the global one, and a
-- fifth more in GovCloud; before Claude 4.5 it did not, and for those models there are no rows.
INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source)
SELECT '*', geographic.model, c.unit, CAST(c.credits_per_unit * geographic.factor, 'Decimal(38, 12)'), c.effective_from,
    'https://aws.amazon.com/bedrock/pricing/, geographic endpoint, as recorded by LiteLLM 1.110.2, read 2026-11-28'
FROM
(
    SELECT claude, concat(endpoint.1, '.anthropic.', claude, suffix) AS model, endpoint.2 AS factor
    FROM values(
        'claude String, suffix String',
        ('claude-fable-5',    ''),
        ('claude-fable-5-1',  ''),
        ('claude-opus-4-5',   '-20251101-v1:0'),
        ('claude-opus-4-6',   '-v1'),
        ('claude-opus-4-7',   ''),
        ('claude-opus-4-8',   ''),
        ('claude-opus-5',     ''),
        ('claude-opus-5-5',   ''),
        ('claude-sonnet-4-5', '-20250929-v1:0'),
        ('claude-sonnet-4-6', ''),
        ('claude-sonnet-5',   ''),
        ('claude-sonnet-5-5', ''),
        ('claude-haiku-4-5',  '-20251001-v1:0'),
        ('claude-haiku-5-5',  ''))
    ARRAY JOIN [('us', toDecimal64('1.1', 1)), ('eu', toDecimal64('1.1', 1)), ('apac', toDecimal64('1.1', 1)), ('au', toDecimal64('1.1', 1)),
        ('jp', toDecimal64('1.1', 1)), ('us-gov', toDecimal64('1.2', 1))] AS endpoint
) AS geographic
INNER JOIN credit_action_costs AS c ON c.model = geographic.claude
WHERE c.action_type = '*' AND startsWith(c.source, 'https://platform.claude.com/')
    AND ('*', geographic.model, c.unit, c.effective_from) NOT IN (SELECT action_type, model, unit, effective_from FROM credit_action_costs);

-- GPT. Models before GPT-5.6 have no price for writing to the cache: such tokens are billed as input.
INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source)
SELECT '*', model, price.1, price.2 / 1000000, since,
    concat('https://developers.openai.com/api/docs/pricing, standard tier, as recorded by LiteLLM 1.109.1 and genai-prices 0.2.3, read 2026-11-22', note)
FROM values(
    'model String, since DateTime64(6, \'UTC\'), input Decimal(38, 12), cache_read Decimal(38, 12), cache_write Decimal(38, 12), output Decimal(38, 12), note String',
    ('gpt-4o-2024-05-13', '2024-05-13', '5',    '5',     '5',     '15',   '; this snapshot has a price of its own and no discount for cached input'),
    ('gpt-4o',            '2024-10-01', '2.5',  '1.25',  '2.5',   '10',   ''),
    ('gpt-4o-mini',       '2024-10-01', '0.15', '0.075', '0.15',  '0.6',  ''),
    ('gpt-4.1',           '2025-04-14', '2',    '0.5',   '2',     '8',    ''),
    ('gpt-4.1-mini',      '2025-04-14', '0.4',  '0.1',   '0.4',   '1.6',  ''),
    ('gpt-4.1-nano',      '2025-04-14', '0.1',  '0.025', '0.1',   '0.4',  ''),
    ('o3',                '2025-06-10', '2',    '0.5',   '2',     '8',    ''),
    ('o4-mini',           '2025-04-16', '1.1',  '0.275', '1.1',   '4.4',  ''),
    ('gpt-5',             '2025-08-07', '1.25', '0.125', '1.25',  '10',   ''),
    ('gpt-5-mini',        '2025-08-07', '0.25', '0.025', '0.25',  '2',    ''),
    ('gpt-5-nano',        '2025-08-07', '0.05', '0.005', '0.05',  '0.4',  ''),
    ('gpt-5.1',           '2025-11-13', '1.25', '0.125', '1.25',  '10',   ''),
    ('gpt-5.2',           '2025-12-11', '1.75', '0.175', '1.75',  '14',   ''),
    ('gpt-5.4',           '2026-03-05', '2.5',  '0.25',  '2.5',   '15',   '; prompts up to 272,000 tokens'),
    ('gpt-5.4-mini',      '2026-03-17', '0.75', '0.075', '0.75',  '4.5',  ''),
    ('gpt-5.4-nano',      '2026-03-17', '0.2',  '0.02',  '0.2',   '1.25', ''),
    ('gpt-5.5',           '2026-04-23', '5',    '0.5',   '5',     '30',   '; prompts up to 272,000 tokens'),
    ('gpt-5.6-sol',       '2026-07-09', '5',    '0.5',   '6.25',  '30',   '; prompts up to 272,000 tokens'),
    ('gpt-5.6-sol',       '2026-08-21', '4',    '0.4',   '5',     '20',   '; prompts up to 272,000 tokens'),
    ('gpt-5.6-terra',     '2026-07-09', '2.5',  '0.25',  '3.125', '15',   '; prompts up to 272,000 tokens'),
    ('gpt-5.6-terra',     '2026-07-30', '2',    '0.2',   '2.5',   '12',   '; prompts up to 272,000 tokens'),
    ('gpt-5.6-luna',      '2026-07-09', '1',    '0.1',   '1.25',  '6',    '; prompts up to 272,000 tokens'),
    ('gpt-5.6-luna',      '2026-07-30', '0.2',  '0.02',  '0.25',  '1.2',  '; prompts up to 272,000 tokens'),
    ('gpt-6-astra',       '2026-09-03', '10',   '1',     '12.5',  '50',   '; prompts up to 272,000 tokens'),
    ('gpt-6-sol',         '2026-09-22', '2',    '0.2',   '2.5',   '10',   '; prompts up to 272,000 tokens'),
    ('gpt-6-luna',        '2026-09-22', '0.1',  '0.01',  '0.125', '0.5',  '; prompts up to 272,000 tokens'),
    ('gpt-6.1-sol',       '2026-09-29', '2',    '0.1',   '2.5',   '10',   '; prompts up to 272,000 tokens'),
    ('gpt-6.1-terra',     '2026-10-26', '1',    '0.05',  '1.25',  '5',    '; prompts up to 272,000 tokens'))
ARRAY JOIN [('input_token', input), ('cache_read_token', cache_read), ('cache_write_token', cache_write), ('output_token', output)] AS price
WHERE ('*', model, price.1, since) NOT IN (SELECT action_type, model, unit, effective_from FROM credit_action_costs);

-- Gemini. Writing to the cache is billed as input; what storing it costs per hour is not modelled. Prices that Google has
-- announced for a later day are rows of that day.
INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source)
SELECT '*', model, price.1, price.2 / 1000000, since,
    concat('https://ai.google.dev/gemini-api/docs/pricing, standard tier, text, as recorded by LiteLLM 1.109.1 and genai-prices 0.2.3, read 2026-11-22', note)
FROM values(
    'model String, since DateTime64(6, \'UTC\'), input Decimal(38, 12), cache_read Decimal(38, 12), output Decimal(38, 12), note String',
    ('gemini-2.5-pro',         '2026-04-20', '1.25', '0.125', '10',   '; prompts up to 200,000 tokens'),
    ('gemini-2.5-flash',       '2026-04-20', '0.3',  '0.03',  '2.5',  ''),
    ('gemini-2.5-flash-lite',  '2026-05-12', '0.1',  '0.01',  '0.4',  ''),
    ('gemini-3.1-pro-preview', '2026-02-19', '2',    '0.2',   '12',   '; prompts up to 200,000 tokens'),
    ('gemini-3.1-flash-lite',  '2026-05-07', '0.25', '0.025', '1.5',  ''),
    ('gemini-3.5-flash-lite',  '2026-07-21', '0.3',  '0.03',  '2.5',  ''),
    ('gemini-3.6-flash',       '2026-08-13', '0.75', '0.075', '3.75', '; introductory price to 2026-12-31'),
    ('gemini-3.6-flash',       '2027-01-01', '1.5',  '0.15',  '7.5',  '; announced'),
    ('gemini-3.8-flash',       '2026-09-02', '0.75', '0.075', '3.75', '; introductory price to 2026-12-31'),
    ('gemini-3.8-flash',       '2027-01-01', '1.5',  '0.15',  '7.5',  '; announced'),
    ('gemini-4-argon',         '2026-10-13', '2',    '0.1',   '10',   '; introductory price to 2026-11-30'),
    ('gemini-4-argon',         '2026-12-01', '4',    '0.2',   '20',   '; announced'))
ARRAY JOIN [('input_token', input), ('cache_read_token', cache_read), ('cache_write_token', input), ('output_token', output)] AS price
WHERE ('*', model, price.1, since) NOT IN (SELECT action_type, model, unit, effective_from FROM credit_action_costs);

-- Embedding models: input is all they bill.
INSERT INTO credit_action_costs (action_type, model, unit, credits_per_unit, effective_from, source)
SELECT '*', model, 'input_token', input / 1000000, since, concat(page, ', as recorded by LiteLLM 1.109.1 and genai-prices 0.2.3, read 2026-11-22')
FROM values(
    'model String, since DateTime64(6, \'UTC\'), input Decimal(38, 12), page String',
    ('text-embedding-3-small', '2024-01-25', '0.02', 'https://developers.openai.com/api/docs/pricing'),
    ('text-embedding-3-large', '2024-01-25', '0.13', 'https://developers.openai.com/api/docs/pricing'),
    ('gemini-embedding-001',   '2025-10-22', '0.15', 'https://ai.google.dev/gemini-api/docs/pricing'))
WHERE ('*', model, 'input_token', since) NOT IN (SELECT action_type, model, unit, effective_from FROM credit_action_costs);
