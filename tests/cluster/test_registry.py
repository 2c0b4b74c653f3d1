"""What is decided without Ray: terms, certificates, and where parts can lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: the extra cluster")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from memstore import files
from memstore.errors import InvalidArgument, ShardElsewhere, StoreLocked, UnsupportedVersion
from memstore.rpc.security import Tokens
from memstore.rpc.topology import Topology
from tests.s3 import CREDENTIALS, S3Server
from workers.authority import Authority
from workers.cluster.notes import check_shelf
from workers.cluster.placing import Node, plan
from workers.cluster.registry import Registry
from workers.cluster.spec import ClusterSpec
from workers.cluster.status import ClusterStatus, PartStatus
from workers.cluster_cli import _show


def spec_in(folder: Path, **changes: Any) -> ClusterSpec:
    return ClusterSpec(folder=folder, name="facts", parts=2, **changes)


def test_the_newest_term_of_a_part_alone_enters(tmp_path: Path) -> None:
    registry = Registry(spec_in(tmp_path))
    first, second = registry.begin(0, "10.0.0.1"), registry.begin(0, "10.0.0.1")
    assert (first.term, second.term) == (1, 2)
    with pytest.raises(ShardElsewhere, match="got term 1, expected term 2"):
        registry.enter(0, first.term, "10.0.0.1:1")
    assert not registry.access.servers
    registry.enter(0, second.term, "10.0.0.1:2")
    assert registry.topology is None
    assert registry.access.servers == ("10.0.0.1:2",)
    registry.enter(1, registry.begin(1, "10.0.0.2").term, "10.0.0.2:3")
    assert registry.topology == Topology(2, ("10.0.0.1:2", "10.0.0.2:3"), registry.id)
    registry.close()


def test_what_was_told_is_known_to_the_next_process(tmp_path: Path) -> None:
    registry = Registry(spec_in(tmp_path))
    registry.enter(1, registry.begin(1, "10.0.0.2").term, "10.0.0.2:3")
    registry.begin(0, "10.0.0.1")
    with pytest.raises(StoreLocked):
        Registry(spec_in(tmp_path))
    registry.close()
    again = Registry(spec_in(tmp_path, cpus=3.0))
    assert again.describe()["parts"] == registry.describe()["parts"]
    assert again.access == registry.access
    lease = again.begin(0, "10.0.0.1")
    assert (lease.term, lease.known, lease.cluster) == (2, False, registry.id)
    assert again.begin(1, "10.0.0.2").known
    again.close()


@pytest.fixture(params=["folder", "s3"])
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """The address of a place of shared storage."""
    if request.param == "folder":
        return lambda name: str(tmp_path / name)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server: S3Server = request.getfixturevalue("objects")
    return lambda name: server.uri("registry", str(tmp_path / name).strip("/"))


def test_of_two_registries_on_shared_storage_one_goes_on(
    tmp_path: Path, shared: Callable[[str], str]
) -> None:
    spec = spec_in(tmp_path / "disk", shared=shared("here"))
    first = Registry(spec)
    first.enter(0, first.begin(0, "10.0.0.1").term, "10.0.0.1:1")
    second = Registry(replace(spec, folder=tmp_path / "other"))
    assert (second.id, second.access) == (first.id, first.access)
    with pytest.raises(StoreLocked, match="another registry has written"):
        first.begin(0, "10.0.0.1")
    lease = second.begin(0, "10.0.0.2")
    assert (lease.term, lease.known) == (2, True)
    second.enter(0, lease.term, "10.0.0.2:5")
    # Its place has become free: what it writes there is not the last that was written.
    assert second._notes._number > first._notes._number + 1  # type: ignore[attr-defined]
    with pytest.raises(StoreLocked, match="another registry has written"):
        first.begin(1, "10.0.0.1")
    assert Registry(spec).describe()["parts"] == [
        {"term": 2, "address": "10.0.0.2:5", "host": ""},
        {"term": 0, "address": "", "host": ""},
    ]


def test_what_is_shared_is_private(tmp_path: Path) -> None:
    spec = spec_in(tmp_path / "disk", shared=str(tmp_path / "shared"))
    Registry(spec).close()
    assert (tmp_path / "shared" / spec.namespace / spec.name).stat().st_mode & 0o077 == 0


def test_storage_that_a_node_does_not_share_is_found_out(
    tmp_path: Path, shared: Callable[[str], str]
) -> None:
    spec = spec_in(tmp_path / "disk", shared=shared("here"))
    registry = Registry(spec)
    check_shelf(spec, registry.id)
    with pytest.raises(InvalidArgument, match="do not share the storage"):
        check_shelf(replace(spec, shared=shared("elsewhere")), registry.id)
    with pytest.raises(InvalidArgument, match="belongs to another cluster"):
        check_shelf(spec, "another")
    notes = spec.shelf("registry/notes")
    assert len(notes.names("")) == 1
    notes.remove(notes.names(""))
    with pytest.raises(InvalidArgument, match="belongs to another cluster"):
        Registry(spec)


def test_a_part_stays_on_the_disk_of_its_node(tmp_path: Path) -> None:
    registry = Registry(spec_in(tmp_path))
    registry.enter(0, registry.begin(0, "10.0.0.1").term, "10.0.0.1:2")
    with pytest.raises(InvalidArgument, match=r"another node: got 10\.0\.0\.2, expected 10\.0\.0"):
        registry.begin(0, "10.0.0.2")
    assert registry.begin(0, "10.0.0.1").term == 2
    registry.close()


def test_a_registry_of_another_configuration_or_format_is_refused(tmp_path: Path) -> None:
    Registry(spec_in(tmp_path)).close()
    with pytest.raises(InvalidArgument, match="made with another configuration"):
        Registry(replace(spec_in(tmp_path), parts=3))
    path = spec_in(tmp_path).home("registry") / "registry.json"
    files.replace_json(path, files.read_json(path) | {"format": 99})
    with pytest.raises(UnsupportedVersion):
        Registry(spec_in(tmp_path))


def test_secrets_are_read_by_their_owner_alone_and_shown_by_nobody(tmp_path: Path) -> None:
    registry = Registry(spec_in(tmp_path))
    lease, access = registry.begin(0, "10.0.0.1"), registry.access
    home = spec_in(tmp_path).home("registry")
    assert home.stat().st_mode & 0o077 == 0
    for secret in (lease.key, lease.peer_token, access.token):
        assert secret not in f"{lease!r} {access!r} {registry.describe()}"
    assert access.token not in lease.tokens
    (tmp_path / "tokens.json").write_text(lease.tokens)
    tokens = Tokens(tmp_path / "tokens.json")
    roles = [getattr(tokens.caller(each), "role", "") for each in (lease.peer_token, access.token)]
    assert roles == ["peer", "admin"]
    registry.close()


def test_an_authority_signs_for_one_address() -> None:
    authority = Authority.make("tests")
    signer = x509.load_pem_x509_certificate(authority.certificate.encode())
    for host, kind in (("10.0.0.1", x509.IPAddress), ("node-1.example", x509.DNSName)):
        made = x509.load_pem_x509_certificate(authority.issue(host)[0].encode())
        made.verify_directly_issued_by(signer)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name) for name in names.get_values_for_type(kind)] == [host]
    key = signer.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert authority.key not in repr(authority)


def pin(bundle: dict[str, float]) -> str:
    return next(name for name in bundle if name.startswith("node:"))


def node(name: str, **resources: float) -> Node:
    return Node(name, f"10.0.0.{name}", {f"node:10.0.0.{name}": 1.0, **resources})


def test_parts_lie_apart_where_there_are_nodes_enough(tmp_path: Path) -> None:
    nodes = [node("1", CPU=4.0), node("2", CPU=2.0), node("3", CPU=0.5)]
    made = plan(spec_in(tmp_path), nodes, ["", ""])
    assert made.strategy == "STRICT_SPREAD"
    assert [*map(pin, made.bundles)] == ["node:10.0.0.1", "node:10.0.0.2"]
    assert made.bundles[1] == {"CPU": 1.0, "node:10.0.0.2": 0.001}
    made = plan(replace(spec_in(tmp_path), parts=4), nodes, [""] * 4)
    assert made.strategy == "SPREAD"
    assert sorted(map(pin, made.bundles)) == ["node:10.0.0.1"] * 2 + ["node:10.0.0.2"] * 2
    made = plan(spec_in(tmp_path), nodes, ["", "10.0.0.1"])
    assert [*map(pin, made.bundles)] == ["node:10.0.0.1"] * 2
    made = plan(spec_in(tmp_path, shared=str(tmp_path)), nodes, ["", ""])
    assert (made.strategy, made.bundles) == ("STRICT_SPREAD", ({"CPU": 1.0},) * 2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cpus": 9.0}, r"got CPU 9, expected CPU ≤ 4 on a node"),
        ({"gpus": 1.0}, r"got GPU 1, expected GPU ≤ 0 on a node"),
        ({"memory_bytes": 1 << 50}, r"got memory 1.1259e.15, expected memory ≤ 100 on a node"),
        ({"cpus": 3.0}, r"part 1 of .* got CPU 3, expected CPU ≤ 2 on a node beside the 1 parts"),
    ],
)
def test_what_can_never_be_placed_is_named(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    nodes = [node("1", CPU=4.0, memory=100.0), node("2", CPU=2.0)]
    with pytest.raises(InvalidArgument, match=match):
        plan(spec_in(tmp_path, **changes), nodes, ["", ""])


def test_a_part_whose_node_is_not_there_is_not_placed(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"a node that is not there: .* expected 10\.0\.0\.7"):
        plan(spec_in(tmp_path), [node("1", CPU=4.0)], ["", "10.0.0.7"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"folder": Path("here")},
        {"name": "No!"},
        {"namespace": "a/b"},
        {"parts": 0},
        {"cpus": 0.0},
        {"cpus": float("nan")},
        {"gpus": -1.0},
        {"memory_bytes": -1},
        {"fsync": "sometimes"},
        {"refresh_share": 1.5},
        {"refresh_share": -0.1},
        {"shared": "here"},
        {"shared": "hdfs://host/x"},
        {"shared": "s3://key:secret@bucket/x"},
        {"shared": "/mnt", "fsync": "interval"},
    ],
)
def test_a_spec_is_checked(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        ClusterSpec(**{"folder": tmp_path, **wrong})


def test_a_spec_goes_through_json(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, gpus=0.5, fsync="always")
    assert ClusterSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_status_says_of_each_part_why_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [
        PartStatus(number, "refused", f"reason {number}", 1, "", "", "", tmp_path, ())
        for number in range(2)
    ]
    for share in (0.0, 0.2):
        _show(ClusterStatus(spec_in(tmp_path, refresh_share=share), "1", 1, tuple(parts)))
        lines = capsys.readouterr().out.splitlines()
        assert lines[1:5] == [
            "part 0  refused    term 1",
            "  reason 0",
            "part 1  refused    term 1",
            "  reason 1",
        ]
