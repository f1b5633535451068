-- By how much the running total of a user's grants falls short of the grants of a month: 0 unless an insert was cut off.
SELECT
    (SELECT sum(credits) FROM credit_grants WHERE user_id = {user_id:String} AND toStartOfMonth(created_at) = {month:Date})
    - (SELECT sum(granted) FROM user_month_totals WHERE user_id = {user_id:String} AND month = {month:Date}) AS credits;
