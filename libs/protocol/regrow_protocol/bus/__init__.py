"""The bus client over NATS JetStream: publishing, reading, buckets, schedules, large values. See `Bus`."""

from .bucket import Bucket, Entry, Watcher
from .client import Bus, schedule_headers
from .consumer import Delivery, PullConsumer
from .latch import Latch
from .publisher import Publisher
from .reader import Reader
from .values import ValueMissing
from .wire import ApiError, PubAck, Received, parse_headers

__all__ = [
    "ApiError",
    "Bucket",
    "Bus",
    "Delivery",
    "Entry",
    "Latch",
    "PubAck",
    "Publisher",
    "PullConsumer",
    "Reader",
    "Received",
    "ValueMissing",
    "Watcher",
    "parse_headers",
    "schedule_headers",
]
