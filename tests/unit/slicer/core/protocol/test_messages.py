"""What an answer weighs: everything in it that is not the same for each."""

from __future__ import annotations

from dataclasses import replace

from slicer.core.protocol.messages import PAIR_BYTES, Refusal, Reply, Timings, answer_bytes

REPLY = Reply("a", Timings(0.0, 0.0, 0.0, 0.0, ()))


def test_an_answer_weighs_its_logits_its_classes_and_its_outputs_and_a_refusal_nothing() -> None:
    assert answer_bytes(REPLY) == answer_bytes(Refusal("a", "failed", "a long message")) == 0
    assert answer_bytes(replace(REPLY, logits=bytes(40), logits_shape=(10,))) == 40
    assert answer_bytes(replace(REPLY, top_k=((7, 1.5), (3, 0.5)))) == 2 * PAIR_BYTES
    outputs = (("features", (6,), bytes(24)), ("tokens", (2, 6), bytes(48)))
    assert answer_bytes(replace(REPLY, outputs=outputs)) == 72
