-- Makes the totals anew, from the events and grants, beside the live ones. `otel-credits rebuild` runs this while nothing is
-- inserted, and then exchanges each table with the one it is to replace; the views go on with the new ones.
DROP TABLE IF EXISTS user_month_totals_rebuilt;

CREATE TABLE user_month_totals_rebuilt AS user_month_totals;

DROP TABLE IF EXISTS usage_month_totals_rebuilt;

CREATE TABLE usage_month_totals_rebuilt AS usage_month_totals;
