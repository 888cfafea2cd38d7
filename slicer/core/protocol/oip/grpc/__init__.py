"""The protocol by gRPC: its messages, and `Tensor` and its like from and to them.

`messages` has the classes, made from the compiled .proto files; `conversion` translates. Neither opens a connection.
The .proto files are Triton's (BSD-3, LICENSE beside this), a superset of the protocol's own: with them its clients can
ask for a model's configuration, too. `docs/tools/make_grpc_messages.py` compiles them again.
"""
