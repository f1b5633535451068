-- The bytes of one request that could not be inserted.
SELECT if(q.signal = 'span', 'traces', 'metrics') AS signal, base64Encode(raw_request) AS raw_request
FROM credit_quarantine AS q
WHERE quarantine_id = {quarantine_id:UUID} AND raw_request != '';
