-- Whether what each process recorded has arrived; those that miss something first, then the latest.
SELECT
    service_name, service_instance_id, recorded, exported, failed, waiting, received, charged, quarantined, missing, last_report_at
FROM client_completeness
ORDER BY missing DESC, last_report_at DESC, service_name, service_instance_id
LIMIT {limit:UInt32};
