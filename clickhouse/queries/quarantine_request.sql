-- The bytes of one request that could not be inserted, and what its sender might charge for.
SELECT if(q.signal = 'span', 'traces', 'metrics') AS signal, base64Encode(raw_request) AS raw_request, allowed_services, allowed_actions
FROM credit_quarantine AS q
WHERE quarantine_id = {quarantine_id:UUID} AND raw_request != '';
