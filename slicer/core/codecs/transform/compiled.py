"""Which loops run: those in C (`_compiled.c`), where they were built, or numpy's.

An install without a C compiler has none, and `headtail-device` never has. numpy's are the reference. Both give the same
words, symbols and integers, so the same payloads, and refuse the same ones. Only `mix` adds up in another order than
numpy's product: what is decoded differs by some 1e-6 of the activation's scale, as it does between hosts.

| in C | in numpy |
|---|---|
| read, write | `rans.Decoder.read`, `rans.encode` |
| expand, gather | `groups.places_of`, `groups.patterns_of` |
| mix | `linear.LinearTransform.synthesise` |
"""

from __future__ import annotations

__all__ = ["COMPILED", "loops"]

try:
    from . import _compiled as loops
except ImportError:
    loops = None  # type: ignore[assignment]

#: Whether those in C run where nobody asks for numpy.
COMPILED = loops is not None
