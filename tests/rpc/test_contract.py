"""The contract: exactly the verbs, the same bytes for ever, and code that is the .proto's."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from memstore import errors
from memstore.memory import Memory
from memstore.meter import VERBS as MEMORY_VERBS
from memstore.rpc import failures
from memstore.rpc.v1 import memory_pb2 as pb
from memstore.rpc.verbs import ADMIN, ADMIN_SERVICE, MEMORY_SERVICE, SPREAD, SPREAD_SERVICE, VERBS

ROOT = Path(__file__).parents[2]
FROZEN = ROOT / "tests" / "vectors" / "memory-v1.binpb"
"""The descriptor as it was released; what it has may not change, only be added to."""


def test_the_services_have_exactly_the_verbs() -> None:
    services = pb.DESCRIPTOR.services_by_name
    of_memory = {method.name.lower() for method in services["MemoryService"].methods}
    of_admin = {method.name.lower() for method in services["AdminService"].methods}
    assert {method.name.lower() for method in services["SpreadService"].methods} == set(SPREAD)
    streams = {"session", "assemble", "load", "export"}
    assert of_memory == VERBS.keys() | streams
    assert of_admin == set(ADMIN)
    assert (of_memory - streams) | {"reindex", "refresh"} == set(MEMORY_VERBS)
    public = {name for name, _ in inspect.getmembers(Memory, inspect.isfunction) if name[0] != "_"}
    assert public == set(MEMORY_VERBS)
    for service in (MEMORY_SERVICE, ADMIN_SERVICE, SPREAD_SERVICE):
        assert service.startswith("memstore.v1.")


def test_a_session_carries_every_verb() -> None:
    fields = pb.Call.DESCRIPTOR.oneofs_by_name["verb"].fields
    assert {field.name: field.message_type.name for field in fields} == {
        name: verb.request.DESCRIPTOR.name for name, verb in VERBS.items()
    }


def test_every_error_has_a_code_and_comes_back_as_itself() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.MemstoreError)
        and kind not in (errors.MemstoreError, errors.StoreError, errors.ServiceError)
    }
    assert kinds == set(failures.CODES)
    for kind in kinds:
        more = (
            {"retry_after_s": 0.25} if issubclass(kind, errors.Overloaded) else {"hint": "do that"}
        )
        error = kind("it went wrong", got=3, expected="4", **more)
        again = failures.from_message(
            pb.Error.FromString(failures.to_message(error).SerializeToString())
        )
        assert type(again) is kind
        assert (str(again), again.retryable) == (str(error), error.retryable)
        assert getattr(again, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def described(file: descriptor_pb2.FileDescriptorProto) -> dict[str, tuple[object, ...]]:
    """Each field and method of a file by its full name, as the wire knows it."""
    found: dict[str, tuple[object, ...]] = {}

    def walk(prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        for field in message.field:
            kind = (field.number, field.type, field.label, field.type_name, field.proto3_optional)
            found[f"{name}.{field.name}"] = kind
        for nested in message.nested_type:
            walk(name, nested)

    for message in file.message_type:
        walk(file.package, message)
    for service in file.service:
        for method in service.method:
            streams = method.client_streaming, method.server_streaming
            found[f"{file.package}.{service.name}.{method.name}"] = (
                method.input_type,
                method.output_type,
                *streams,
            )
    return found


def test_nothing_that_was_released_has_changed() -> None:
    now = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(now)
    frozen = descriptor_pb2.FileDescriptorProto.FromString(FROZEN.read_bytes())
    before, after = described(frozen), described(now)
    assert {name: after.get(name) for name in before} == before


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Imemstore/rpc/v1=protos/memstore/v1"]
    out = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "memstore/rpc/v1/memory.proto"]
    subprocess.run([*command, *out], cwd=ROOT, check=True)
    for name in ("memory_pb2.py", "memory_pb2.pyi"):
        made = tmp_path / "memstore" / "rpc" / "v1" / name
        assert made.read_text() == (ROOT / "memstore" / "rpc" / "v1" / name).read_text(), (
            "make protos"
        )
    shutil.rmtree(tmp_path / "memstore")
