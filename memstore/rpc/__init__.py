"""The memory as a service: protos/memstore/v1/memory.proto says what holds of it."""
