"""Wait until gRPC answers, as `http_endpoint.wait_reachable` does for HTTP."""

from __future__ import annotations

import logging
import time

import grpc

from deployments.config import HttpAddress
from slicer.core.protocol.oip.grpc.messages import SERVICE

logger = logging.getLogger("headtail.placing")

#: HAProxy learns of an application a moment after Serve says that it runs, and asks it first whether it is well.
_REACHABLE_WITHIN_S = 15.0


def wait_reachable(http_address: HttpAddress, name: str, address: str) -> None:
    """Return when the application answers by gRPC; at once where it has none. Where it does not in time, it is said
    and nothing more."""
    target = http_address.grpc_of(address)
    if not target:
        return
    until_s = time.monotonic() + _REACHABLE_WITHIN_S
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ServerLive")
        while True:
            try:
                ask(b"", timeout=2.0, metadata=[("application", name)], wait_for_ready=True)
                return
            except grpc.RpcError as error:  # HAProxy answers for an application that it does not know yet
                if time.monotonic() > until_s:
                    logger.warning("%s does not answer by gRPC: %s", target, error)
                    return
            time.sleep(0.05)
