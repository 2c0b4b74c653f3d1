"""A memory over several servers: each holds some of its shards, and one client sees them as one.

The client's side
    memory, encoded        SpreadMemory, SpreadEncodedMemory: the verbs of any other memory
    fan                    several calls at once, and what becomes of them all
    candidates             what the parts have for training, as one

A server's side
    held, held_encoded     the shards that one server holds, and what the others ask of it
    holding                new mutations kept off while a cut through all parts is made
"""
