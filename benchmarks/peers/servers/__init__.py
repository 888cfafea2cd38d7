"""Each peer as its own documentation sets it up. Not here: who starts them (`benchmarks.peers.stacks`)."""
