"""Generated from protos/memstore/v1/memory.proto by `make protos`."""
