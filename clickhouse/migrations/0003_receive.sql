-- Where OTLP requests are inserted, as they came over the wire (FORMAT Protobuf, schema ../otlp.proto). Nothing is stored
-- here: the views behind these tables decode and keep what is usage.
-- Enum columns named after a oneof tell which of its fields was sent (input_format_protobuf_oneof_presence = 1).
CREATE TABLE IF NOT EXISTS otlp_traces
(
    envelope Tuple(batch_id String, received_at_us Int64, charge_genai Bool, user_attributes Array(String), default_user String, receiver String,
        allowed_services Array(String), allowed_actions Array(String), estimated String, keep_attributes Array(String)),
    resource_spans Array(Tuple(
        resource Tuple(attributes Array(Tuple(key String, value Tuple(string_value String, bool_value Bool, int_value Int64, double_value Float64, array_value String, value Enum8('no' = 0, 'string_value' = 1, 'bool_value' = 2, 'int_value' = 3, 'double_value' = 4, 'array_value' = 5, 'kvlist_value' = 6, 'bytes_value' = 7))))),
        scope_spans Array(Tuple(
            scope Tuple(name String, version String),
            spans Array(Tuple(
                trace_id String,
                span_id String,
                parent_span_id String,
                name String,
                kind Int32,
                start_time_unix_nano UInt64,
                end_time_unix_nano UInt64,
                attributes Array(Tuple(key String, value Tuple(string_value String, bool_value Bool, int_value Int64, double_value Float64, array_value String, value Enum8('no' = 0, 'string_value' = 1, 'bool_value' = 2, 'int_value' = 3, 'double_value' = 4, 'array_value' = 5, 'kvlist_value' = 6, 'bytes_value' = 7)))),
                status Tuple(code Int32)
            ))
        ))
    ))
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS otlp_metrics
(
    envelope Tuple(batch_id String, received_at_us Int64, charge_genai Bool, user_attributes Array(String), default_user String, receiver String,
        allowed_services Array(String), allowed_actions Array(String), estimated String, keep_attributes Array(String)),
    resource_metrics Array(Tuple(
        resource Tuple(attributes Array(Tuple(key String, value Tuple(string_value String, bool_value Bool, int_value Int64, double_value Float64, array_value String, kvlist_value String, bytes_value String, value Enum8('no' = 0, 'string_value' = 1, 'bool_value' = 2, 'int_value' = 3, 'double_value' = 4, 'array_value' = 5, 'kvlist_value' = 6, 'bytes_value' = 7))))),
        scope_metrics Array(Tuple(
            scope Tuple(name String, version String),
            metrics Array(Tuple(
                name String,
                gauge Tuple(data_points Array(Tuple(
                    start_time_unix_nano UInt64,
                    time_unix_nano UInt64,
                    as_double Float64,
                    as_int Int64,
                    number Enum8('no' = 0, 'as_double' = 4, 'as_int' = 6),
                    attributes Array(Tuple(key String, value Tuple(string_value String, bool_value Bool, int_value Int64, double_value Float64, array_value String, kvlist_value String, bytes_value String, value Enum8('no' = 0, 'string_value' = 1, 'bool_value' = 2, 'int_value' = 3, 'double_value' = 4, 'array_value' = 5, 'kvlist_value' = 6, 'bytes_value' = 7)))),
                    flags UInt32
                ))),
                sum Tuple(data_points Array(Tuple(
                    start_time_unix_nano UInt64,
                    time_unix_nano UInt64,
                    as_double Float64,
                    as_int Int64,
                    number Enum8('no' = 0, 'as_double' = 4, 'as_int' = 6),
                    attributes Array(Tuple(key String, value Tuple(string_value String, bool_value Bool, int_value Int64, double_value Float64, array_value String, kvlist_value String, bytes_value String, value Enum8('no' = 0, 'string_value' = 1, 'bool_value' = 2, 'int_value' = 3, 'double_value' = 4, 'array_value' = 5, 'kvlist_value' = 6, 'bytes_value' = 7)))),
                    flags UInt32
                )), aggregation_temporality Int32, is_monotonic Bool),
                histogram Tuple(data_points Array(Tuple(time_unix_nano UInt64))),
                exponential_histogram Tuple(data_points Array(Tuple(time_unix_nano UInt64))),
                summary Tuple(data_points Array(Tuple(time_unix_nano UInt64)))
            ))
        ))
    ))
)
ENGINE = Null;

-- One row a span or data point that may be usage, attributes as text. A replay from the quarantine enters here.
CREATE TABLE IF NOT EXISTS usage_candidates
(
    signal LowCardinality(String) COMMENT 'span or point',
    batch_id UUID,
    received_at DateTime64(6, 'UTC'),
    position UInt64 COMMENT 'number of the row in its block',
    charge_genai Bool,
    user_attributes Array(String),
    default_user String,
    receiver String,
    allowed_services Array(String) COMMENT 'what the token of the sender may charge for; empty: any',
    allowed_actions Array(String),
    estimated LowCardinality(String) COMMENT 'what becomes of usage that is marked as an estimate: charge (also if empty), quarantine, ignore',
    service_name String,
    scope_name String,
    scope_version String,
    trace_id String,
    span_id String,
    parent_span_id String,
    name String,
    kind Int32,
    status_code Int32,
    start_time_unix_nano UInt64,
    end_time_unix_nano UInt64,
    series String,
    attributes Map(String, String),
    double_keys Array(String) COMMENT 'attributes that were sent as binary floats',
    defect LowCardinality(String) COMMENT 'why it cannot be charged, as far as decoding shows',
    rule_id String COMMENT 'the billing rule that matched the span, of what is replayed',
    ask_rules Bool COMMENT 'whether a billing rule may make it a usage: a span that was just received'
)
ENGINE = Null;
