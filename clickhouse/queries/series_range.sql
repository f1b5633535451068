-- The last series of a range that begins behind a series (after; empty: at the first) and is small enough to be looked at in one
-- go: at most some intervals, or one series. Empty: the range has no end.
SELECT max(series) AS until
FROM
(
    SELECT series FROM usage_intervals WHERE {after:String} = '' OR series > {after:String} ORDER BY series LIMIT 1 OFFSET {rows:UInt32}
);
