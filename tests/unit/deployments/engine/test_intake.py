"""How an engine's thread sleeps: no ring is lost, whenever it comes."""

from __future__ import annotations

import threading

from deployments.engine.intake import ThreadIntake

TIMEOUT_S = 20.0


def test_a_ring_before_the_sleep_ends_it_at_once() -> None:
    intake = ThreadIntake()
    intake.ring()
    intake.wait(None)  # would not return


def test_what_was_collected_rings_no_more() -> None:
    intake = ThreadIntake()
    intake.ring()
    intake.collect()
    intake.wait(1e-3)
    rang = threading.Event()
    sleeper = threading.Thread(target=lambda: (intake.wait(None), rang.set()))
    sleeper.start()
    assert not rang.wait(0.01)
    intake.ring()
    assert rang.wait(TIMEOUT_S)
    sleeper.join()


class RungLate(ThreadIntake):
    """Another thread rings at the worst moment: when the sleeper has just seen that nothing had rung."""

    ringer: threading.Thread | None = None
    rung = False

    @property
    def _rung(self) -> bool:
        seen = self.rung
        if self.ringer is None:
            self.ringer = threading.Thread(target=self.ring)
            self.ringer.start()
            self.ringer.join(0.1)  # it ends now, or when the sleeper lets it have the condition
        return seen

    @_rung.setter
    def _rung(self, value: bool) -> None:
        self.rung = value


def test_a_ring_between_the_last_look_and_the_sleep_is_not_lost() -> None:
    intake = RungLate()
    sleeper = threading.Thread(target=lambda: intake.wait(None), daemon=True)
    sleeper.start()
    sleeper.join(TIMEOUT_S)
    assert not sleeper.is_alive(), "it sleeps, although it was rung for"
    assert intake.ringer is not None
    intake.ringer.join()


def test_no_ring_is_lost_however_it_meets_the_sleep() -> None:
    """Two threads in turns, each waking the other, so that rings come at every moment of falling asleep."""
    rounds, intakes, came = 2000, (ThreadIntake(), ThreadIntake()), [0, 0]

    def play(me: int) -> None:
        for number in range(1, rounds + 1):
            came[1 - me] = number  # the work, and then the ring
            intakes[1 - me].ring()
            while came[me] < number:
                intakes[me].wait(None)
                intakes[me].collect()

    players = [threading.Thread(target=play, args=(me,), daemon=True) for me in (0, 1)]
    for player in players:
        player.start()
    for player in players:
        player.join(TIMEOUT_S)
        assert not player.is_alive(), f"asleep after {came} rounds"
