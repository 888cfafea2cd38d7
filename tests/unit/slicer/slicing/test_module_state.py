"""What an attempt left in a module's attributes is put back."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import nn

from slicer.tracing.module_state import snapshot


def test_attributes_buffers_hooks_and_contents_are_as_before() -> None:
    module: Any = nn.Module()
    part: Any = nn.Linear(2, 2)
    module.part = part
    part.seen = {"size": 7}
    weight = part.weight

    restore = snapshot(module)
    part.seen["size"] = 9
    part.cache = torch.zeros(1)
    part.register_buffer("table", torch.zeros(1))
    part.register_forward_hook(lambda *_: None)
    part.weight = nn.Parameter(torch.zeros(2, 2))
    restore()

    assert part.seen == {"size": 7}
    assert not hasattr(part, "cache") and not dict(part.named_buffers()) and not part._forward_hooks
    assert part.weight is weight


def test_an_empty_container_of_every_kind_is_emptied() -> None:
    module: Any = nn.Module()
    module.a_list, module.a_dict, module.a_set, module.a_deque = [], {}, set(), deque()
    held = (module.a_list, module.a_dict, module.a_set, module.a_deque)
    restore = snapshot(module)
    module.a_list.append(1)
    module.a_dict[1] = 1
    module.a_set.add(1)
    module.a_deque.append(1)
    restore()
    assert [len(one) for one in held] == [0, 0, 0, 0]
    assert module.a_list is held[0]  # the very one, to which others may refer
