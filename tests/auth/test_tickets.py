"""When tickets are renewed, by the clock that is handed in."""

from __future__ import annotations

import pytest

from pyrbd.errors import AuthError
from pyrbd.msgr.cephx import REQUEST_GET_AUTH_SESSION_KEY, REQUEST_GET_PRINCIPAL_SESSION_KEY, CephxMonAuthenticator
from pyrbd.msgr.connection import Ready
from pyrbd.msgr.crypto import CryptoKey
from pyrbd.msgr.types import ENTITY_TYPE_AUTH, ENTITY_TYPE_OSD
from pyrbd.rados.tickets import Tickets
from tests.msgr.test_sessions import RECORDS, fixed_random, play

__all__ = ["fixed_random"]
NOW = 1000.0


@pytest.fixture
def tickets() -> Tickets:
    """Those of a recorded session: AUTH for three days, services for an hour."""
    events, _, conn = play("aes256k/mon", len)
    ready = events[0]
    assert isinstance(ready, Ready)
    key = CryptoKey.from_bytes(bytes.fromhex(RECORDS["aes256k"]["key"]))
    held = Tickets("admin", key, [2])
    held.logged_in(conn.auth, ready.auth, ready.global_id, NOW)
    return held


def kind_of(request: bytes | None) -> int:
    assert request is not None
    return int.from_bytes(request[:2], "little")


def test_tickets_are_renewed_at_three_quarters_of_their_time(tickets: Tickets) -> None:
    assert tickets.renew_at == NOW + 0.75 * 3600
    assert kind_of(tickets.renewal(NOW + 2700)) == REQUEST_GET_PRINCIPAL_SESSION_KEY
    assert kind_of(tickets.renewal(NOW + 0.75 * 259200)) == REQUEST_GET_AUTH_SESSION_KEY
    assert kind_of(tickets.renewal(NOW, everything=True)) == REQUEST_GET_AUTH_SESSION_KEY


@pytest.mark.parametrize("at", [0, 1])
def test_an_answer_puts_the_time_off(tickets: Tickets, at: int) -> None:
    before = tickets.held
    tickets.renewed(bytes.fromhex(RECORDS["aes256k"]["mon"]["renewals"][at][2]), NOW + 2700)
    assert tickets.renew_at == NOW + 2700 + 2700
    assert tickets.held[ENTITY_TYPE_OSD] != before[ENTITY_TYPE_OSD]
    assert (tickets.held[ENTITY_TYPE_AUTH] != before[ENTITY_TYPE_AUTH]) == bool(at)


def test_tickets_without_an_end_are_not_renewed(tickets: Tickets) -> None:
    tickets._keep({service: t._replace(validity=0.0) for service, t in tickets.held.items()}, NOW)
    assert tickets.renew_at is None


def test_who_has_no_ticket_says_so(tickets: Tickets) -> None:
    with pytest.raises(AuthError, match=r"client\.admin has no ticket for the service mds") as e:
        tickets.authorizer(2)
    assert e.value.errno == 13


def test_a_client_that_begins_anew_shows_nothing_of_before(tickets: Tickets) -> None:
    known = tickets.global_id
    way = tickets.login()
    assert isinstance(way, CephxMonAuthenticator) and way._global_id == known and way._old is not None
    assert tickets.begin_anew() and not tickets.begin_anew()
    way = tickets.login()
    assert isinstance(way, CephxMonAuthenticator) and way._global_id == 0 and way._old is None
    assert known in tickets.known_as
    assert tickets.renewal(NOW) is None, "there is nothing to show to a monitor"


def test_answers_that_were_not_asked_for(tickets: Tickets) -> None:
    with pytest.raises(AuthError, match="not asked for"):
        Tickets("admin", None, [1]).renewed(b"", NOW)
