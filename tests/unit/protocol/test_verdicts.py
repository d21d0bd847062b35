"""What the server's answers to a publish mean."""

from __future__ import annotations

import pytest
from regrow_protocol.bus.verdicts import for_good, for_now, read_answer
from regrow_protocol.bus.wire import ErrorBody
from regrow_protocol.errors import PublishRejected, StorageFull, Unreachable, WrongRevision


def test_an_acknowledgement_is_read() -> None:
    """Sequence and duplicate flag; a batch's carries more, which is ignored."""
    ack = read_answer(None, b'{"stream":"S","seq":7,"duplicate":true}')
    assert (ack.seq, ack.duplicate, ack.error) == (7, True, None)
    assert read_answer(None, b'{"stream":"S","seq":9,"batch":"b","count":3}').seq == 9


@pytest.mark.parametrize("answer", [(b"NATS/1.0 503\r\n\r\n", b""), (None, b"nonsense"), (None, b"")])
def test_what_is_no_acknowledgement_is_an_error_that_is_tried_again(answer: tuple[bytes | None, bytes]) -> None:
    """Nobody there, or something unreadable: never taken for stored, never given up."""
    error = read_answer(*answer).error
    assert error is not None
    assert for_good("s", error) is None
    assert isinstance(for_now("S", error), Unreachable)


@pytest.mark.parametrize(
    ("status", "err_code"), [(503, 10008), (500, 10077), (400, 10047), (429, 10167), (404, 10059), (503, 10023)]
)
def test_what_may_pass_is_tried_again(status: int, err_code: int) -> None:
    """A missing leader, a full store, too many requests, a stream that is not there yet."""
    assert for_good("s", ErrorBody(status, err_code, "of the test")) is None


@pytest.mark.parametrize(("status", "err_code"), [(400, 10054), (400, 10190), (400, 10060)])
def test_what_cannot_help_is_given_up(status: int, err_code: int) -> None:
    """Too large for the stream, an impossible schedule, another stream expected."""
    assert isinstance(for_good("s", ErrorBody(status, err_code, "of the test")), PublishRejected)


def test_lost_comparisons_and_full_stores_have_their_own_errors() -> None:
    """`WrongRevision` for the sender, `StorageFull` for the operator."""
    assert isinstance(for_good("s", ErrorBody(400, 10071, "wrong last sequence: 3")), WrongRevision)
    assert isinstance(for_now("S", ErrorBody(500, 10077, "maximum bytes exceeded")), StorageFull)
