"""Messages between front and core: what is packed comes back, and the longest ones fit into a socket."""

from __future__ import annotations

import socket

import pytest

from deployments.ipc import messages


def test_what_is_packed_comes_back() -> None:
    message = (messages.SUBMIT, "m", 1, "<f4", 3, 0, 64, [0.5, 1.5], [None, 2.0], [b"key", b""], [False, True])
    assert messages.unpack(messages.pack(message)) == [*message]


@pytest.mark.parametrize("message", [b"", b"\xc1", b"\x01", b"\x90", b"\x81\x01\x02", b"\x93\x01"])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        messages.unpack(message)


def test_many_rows_are_in_several_parts_and_all_of_them_in_one() -> None:
    for count in (0, 1, messages.MOST_ROWS, messages.MOST_ROWS + 1, 3 * messages.MOST_ROWS):
        parts = list(messages.in_parts(range(count)))
        assert [row for part in parts for row in part] == list(range(count))
        assert all(1 <= len(part) <= messages.MOST_ROWS for part in parts)


def test_the_longest_messages_fit_into_a_socket_as_it_is_made() -> None:
    """A longer one would be refused by the system, and the rows in it would never be answered."""
    steps = [1000] * 64
    refused = [
        (1 << 40, "overloaded", messages.shortened("\U0001f600" * 10_000), 1e3, 1e3, steps, (1000, 1000))
    ] * messages.MOST_ROWS
    submitted = (1e9 + 0.1, 1e9 + 0.2, b"k" * 16, True)
    columns = [[value] * messages.MOST_ROWS for value in submitted]
    front, core = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with front, core:
        for message in (
            messages.pack((messages.ENDED, 1 << 40, refused)),
            messages.pack((messages.SUBMIT, "m" * 4096, 1, "<f4", 1 << 40, 1 << 40, 1 << 40, *columns)),
            messages.pack((messages.CANCEL, [1 << 40] * messages.MOST_ROWS)),
        ):
            front.setblocking(False)
            assert front.send(message) == len(message) <= messages.MOST_BYTES
            assert core.recv(messages.MOST_BYTES) == message
