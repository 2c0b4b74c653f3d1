"""The memory as a service: protos/memstore/v1/memory.proto says what holds of it.

A call passes through these files, in this order. `async_X` is X for asyncio; `cli` is the shell's.

Client: a verb becomes a message, finds a server, and is sent until it is answered
    client              what `connect` returns: memories, sessions, the store's own verbs
    remote              a memory that one server has: its verbs
    requests            each verb of a memory as a message, once for every way there
    administration      the same for the verbs of a store
    calls, attempts     a request; whether it is sent again, and after how long
    cutting             calls longer than a message: in portions, or in pieces
    target, ways        which server and how; channels to all of them
    client_session      calls over one stream; `outstanding`: those without an answer yet
    bulk                `load` and `export`

Wire: the same for both sides
    codec, columns      arrays, options and tables to messages and back; rows as Arrow columns
    splice              large tensors, neither copied into a message nor out of it
    wire, arrow         what bytes from whoever would take, told before they are unpacked
    failures            errors to statuses and back
    verbs               which verbs there are, of which service and role, and what does them
    security, tls       tokens, roles, certificates

Server: a call is let in, read, done in a pool and answered
    server              its life: start, drain, stop
    handlers            the seam to gRPC: who calls, what comes in, what is told of a failure
    limits              what is taken at once: `receiving` for what comes in, `quotas` a second
    assembling          calls in pieces; `server_session`: calls over one stream
    answering           what is done for a call, in `pools` of threads
    batching, alone     searches that wait at once as one; reads that need not wait for a thread
    sizes               how long a reply gets, before it is made
    transfer, beside    long streams (`loading`, `exporting`); health (`health` asks), reflection

Several servers: each holds a part
    topology            who has which part; `membership`: of which cluster
    fleet               servers asked by part, at once, wherever they are; `sparing`: the slow ones
    parts, sums         a part elsewhere, as one here; the same of encoded memories
    spreading           what a server of one part does for whole memories
    own_part            what it does for others of its part; `asked_changes`: their changes
    joint, fetching     marks, snapshots, restores of all parts; `spread_export`, `spread_load`
"""
