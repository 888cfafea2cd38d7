"""What one writes first: FastAPI and uvicorn, the model behind a lock, one request at a time.

python -m benchmarks.peers.servers.fastapi_server ACCELERATOR PORT
"""

from __future__ import annotations

import sys
import threading

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request

from benchmarks.peers.accelerator import Accelerator, answer

app = FastAPI()
accelerator = Accelerator(sys.argv[1])
one_at_a_time = threading.Lock()


def model(payload: bytes, entry: int) -> bytes:
    with one_at_a_time:
        accelerator.run(entry, 1)
    return answer(payload, entry)


@app.post("/{entry}")
async def infer(entry: int, request: Request) -> Response:
    payload = await request.body()
    return Response(await run_in_threadpool(model, payload, entry))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
