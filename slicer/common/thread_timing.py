"""For threads that others wait for within milliseconds: the interpreter soon, and a processor before others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading

#: A thread that wakes waits so long for the interpreter while another one computes; Python's 5 ms are longer than a
#: step, and an accelerator would idle meanwhile (measured: docs/log/, 2026-11-23).
SWITCH_INTERVAL_S = 1e-4

_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_THREAD = threading.local()

#: Before everything that is not told otherwise.
NICENESS = -10


def hand_over_soon() -> None:
    """Threads of this process hand the interpreter over within `SWITCH_INTERVAL_S`."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def sleep_exactly() -> None:
    """Linux lets the calling thread oversleep by 50 us unless it asks for less, once (PR_SET_TIMERSLACK)."""
    if not getattr(_THREAD, "asked", False):
        _THREAD.asked = True
        with contextlib.suppress(OSError, AttributeError, TypeError):  # another system than Linux
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def prefer_thread() -> None:
    """The calling thread, and those that it starts from now on, get a processor before others.

    Nothing happens where this process may not ask for that: only root may.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
