-- Gaps and overlaps of the intervals of each series of a range. An interval is compared with how far all before it reached, so that one
-- that lies within another makes no gap behind it. The same interval again is a copy.
SELECT
    service_name,
    series,
    user_id,
    action_type,
    if(start_ns > reached_ns, 'gap', 'overlap') AS fault,
    if(start_ns > reached_ns, reached_ns, start_ns) AS from_ns,
    if(start_ns > reached_ns, start_ns, least(reached_ns, end_ns)) AS until_ns,
    fromUnixTimestamp64Micro(toInt64(intDiv(from_ns, 1000)), 'UTC') AS from_at,
    fromUnixTimestamp64Micro(toInt64(intDiv(until_ns, 1000)), 'UTC') AS until_at
FROM
(
    SELECT
        *,
        max(end_ns) OVER before AS reached_ns,
        (lagInFrame(start_ns) OVER before, lagInFrame(end_ns) OVER before) AS previous
    FROM usage_intervals
    WHERE ({after:String} = '' OR series > {after:String}) AND ({until:String} = '' OR series <= {until:String})
    WINDOW before AS (PARTITION BY series ORDER BY start_ns, end_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
WHERE reached_ns NOT IN (0, start_ns) AND previous != (start_ns, end_ns)
ORDER BY from_ns, series, start_ns, end_ns
LIMIT {limit:UInt32};
