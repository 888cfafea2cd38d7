"""The Open Inference Protocol, version 2: what KServe, Triton and OpenVINO speak, and so do our devices.

`tensors` is what a request and a response hold, whether they travel by HTTP (`http_body` reads, `http_writing` writes)
or by gRPC. `requests` and `responses` translate between these and the messages of the engine's side
(`protocol.messages`). `one_row` does both at once for what devices send by HTTP, and `fast_path` at the server for what
they have sent.

Not here: connections (`client`, `deployments.replica`).
Source: https://github.com/kserve/open-inference-protocol, and Triton's extensions `binary_tensor_data`,
`classification` and `schedule_policy`.
"""
