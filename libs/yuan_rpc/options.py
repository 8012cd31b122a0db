"""Settings of gRPC that both ends of a call must agree on."""

_MESSAGE_BYTES = 64 * 1024 * 1024
_METADATA_BYTES = 64 * 1024

COMMON_OPTIONS: list[tuple[str, int | str]] = [
    # gRPC's own limit is 4 MiB, and a reply beyond it fails with RESOURCE_EXHAUSTED.
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_metadata_size", _METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * _METADATA_BYTES),
    # A peer that vanished without a word (power, network) is noticed, and what its calls hold is freed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]

SERVER_OPTIONS: list[tuple[str, int | str]] = [
    *COMMON_OPTIONS,
    # On Linux gRPC shares a port with whoever asks for it, so that a second server would get half of the calls.
    ("grpc.so_reuseport", 0),
    # Pings of our clients are welcome; by default a server hangs up on more than one in five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
