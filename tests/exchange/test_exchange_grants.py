"""One signature for many manifests: each grant is its own manifest's, and nothing made up of them is valid."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import exchange_world
import pytest
from exchange_world import PUBLIC, SIGNER, VERIFIER, World
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, LeaseLost, Unavailable
from chassis.exchange import grants
from chassis.exchange.grants import Signer, Verifier, generate_key
from chassis.exchange.manifest import Manifest, TaskId
from chassis.exchange.trees import MAX_LEAVES, Proof, Tree

SOME = 7  # its last leaf goes up a level without a neighbour
TEXTS = [b"%d" % n for n in range(SOME)]


def plain(number: int = 0) -> Manifest:
    now = VirtualClock().now()
    return Manifest(
        station_id="st-1", task_id=TaskId(f"t-{number}"), owner="governor", issuer="cbo", domain="logs", procedure="p",
        created_at=now, expires_at=now, ttl_seconds=60.0, params={"n": str(number)},
    )  # fmt: skip


SIGNED = SIGNER.sign_many([plain(n) for n in range(SOME)])


class Counting(Verifier):
    """How often a signature was really checked."""

    checks = 0

    def _check(self, signature: bytes, message: bytes) -> None:
        self.checks += 1
        super()._check(signature, message)


@pytest.mark.parametrize(
    ("size", "root"),
    [
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        (6, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_the_root_is_that_of_certificate_transparency(size: int, root: str) -> None:
    """Leaves and roots as in the test data of Google's Certificate Transparency, which RFC 9162 hashes the same way."""
    leaves = [
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    ]  # fmt: skip
    assert Tree([bytes.fromhex(each) for each in leaves[:size]]).head.endswith(bytes.fromhex(root))


@pytest.mark.parametrize("size", [*range(1, 34), 64, 65, 100, MAX_LEAVES - 1, MAX_LEAVES])
def test_every_leaf_of_a_tree_of_any_size_leads_to_its_head_and_no_other_place_does(size: int) -> None:
    texts = [b"%d" % n for n in range(size)]
    tree = Tree(texts)
    for index in {*range(min(size, 40)), size // 2, size - 1}:
        proof = Proof.parse(tree.proof(index, bytes(64)).text())
        assert proof.head(texts[index]) == tree.head
        assert proof.head(texts[index - 1]) != tree.head or size == 1
        for other in {index - 1, index + 1, index ^ 2} & set(range(size)):
            if len(tree.proof(other, bytes(64)).path) == len(proof.path):
                assert replace(proof, index=other).head(texts[index]) != tree.head


@pytest.mark.parametrize("many", [0, 1, 2, SOME, MAX_LEAVES, MAX_LEAVES + 1, MAX_LEAVES + 3])
def test_each_of_many_has_a_valid_grant_of_its_own_in_the_order_given(many: int) -> None:
    manifests = [plain(n) for n in range(many)]
    signed = SIGNER.sign_many(manifests)
    assert [replace(each, grant="") for each in signed] == manifests
    assert all(VERIFIER(each) for each in signed)
    assert len({each.grant for each in signed}) == many


def test_one_alone_is_signed_as_ever() -> None:
    assert SIGNER.sign_many([plain()]) == [SIGNER.sign(plain())]


def test_many_cost_one_check_and_the_same_ones_again_none() -> None:
    counting = Counting(PUBLIC)
    assert all(counting(each) for each in SIGNED * 3)
    assert counting.checks == 1


def test_a_grant_is_valid_for_no_other_manifest() -> None:
    counting = Counting(PUBLIC)
    assert counting(SIGNED[0])
    for number, theirs in enumerate(SIGNED):
        for mine in SIGNED[:number] + SIGNED[number + 1 :]:
            assert not counting(mine.with_grant(theirs.grant))
    for changed in (
        replace(SIGNED[2], owner="other"), replace(SIGNED[2], level="EXECUTE"), replace(SIGNED[2], params={"n": "3"}),
        replace(SIGNED[2], approval="me"), replace(SIGNED[2], task_id=TaskId("t-3")),
    ):  # fmt: skip
        assert not counting(changed)


def test_what_is_changed_after_it_was_read_or_signed_is_not_what_was_signed() -> None:
    (read, _) = SIGNER.sign_many([plain(1), plain(2)])
    for each in (read, Manifest.from_json(read.to_json())):
        assert VERIFIER(each)
        each.params["n"] = "9"  # type: ignore[index] # that it is a dict is nothing to rely on
        assert not VERIFIER(each)


def parts(grant: str) -> tuple[int, int, bytes]:
    _, index, size, data = grant.split(".")
    return int(index), int(size), base64.b64decode(data)


def made(index: object, size: object, data: bytes) -> str:
    return f"tree.{index}.{size}.{base64.b64encode(data).decode()}"


def test_no_bit_of_a_signature_or_of_the_hashes_may_differ() -> None:
    index, size, data = parts(SIGNED[3].grant)
    assert VERIFIER(SIGNED[3])
    assert made(index, size, data) == SIGNED[3].grant
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1 << at % 8
        assert not VERIFIER(SIGNED[3].with_grant(made(index, size, bytes(wrong)))), at


def test_another_place_or_another_size_is_refused() -> None:
    for each in SIGNED:
        index, size, data = parts(each.grant)
        for wrong in {(i, n) for i in range(12) for n in range(12)} - {(index, size)}:
            assert not VERIFIER(each.with_grant(made(*wrong, data))), wrong


def test_hashes_in_another_order_cut_short_doubled_or_added_are_refused() -> None:
    index, size, data = parts(SIGNED[3].grant)
    signature, first, second, third = data[:64], data[64:96], data[96:128], data[128:]
    assert len(third) == 32
    wrong = (
        signature + second + first + third, signature + first + second, signature + second + third, signature,
        data + bytes(32), data + third, data[:-1], data + b"\0", signature[:63], b"",
        first + second + third + signature,
    )  # fmt: skip
    for each in wrong:
        assert not VERIFIER(SIGNED[3].with_grant(made(index, size, each)))


def test_no_longer_path_than_a_tree_can_have_is_looked_at() -> None:
    index, size, data = parts(SIGNED[3].grant)
    for long in (data + bytes(32) * 9, bytes(200_000)):
        assert not VERIFIER(SIGNED[3].with_grant(made(index, size, long)))
        with pytest.raises(ValueError, match="more or fewer hashes"):
            Proof.parse(made(index, size, long))
    Proof.parse(made(0, MAX_LEAVES, bytes(64 + 32 * 10)))
    with pytest.raises(ValueError, match="a leaf that its tree does not have"):
        Proof.parse(made(0, MAX_LEAVES + 1, bytes(64 + 32 * 11)))


def test_nothing_is_a_proof_but_what_its_writer_writes() -> None:
    index, size, data = parts(SIGNED[6].grant)
    good = SIGNED[6].grant
    assert VERIFIER(SIGNED[6])
    loose = good[:-2] + chr(ord(good[-2]) + 1) + "="  # the same bytes, with bits left over
    assert good.endswith("=")
    assert base64.b64decode(loose.split(".")[3], validate=True) == data
    for wrong in (
        loose, good + "\n", " " + good, good + "=", good.rstrip("="), good.upper(), good.replace("tree", "Tree"),
        good.replace("+", "-").replace("/", "_") + "-", made("06", size, data), made("+6", size, data),
        made("6", "07", data), made("-1", size, data), made("٦", size, data), made("6", "٧", data),
        made("", size, data), made("6 ", size, data), made("1_0", "1_1", data), f"tree.{index}.{size}", "tree.",
        "tree...",
        f"tree.{index}.{size}.{index}.{good.split('.')[3]}", f"{index}.{size}.{good.split('.')[3]}",
    ):  # fmt: skip
        assert wrong != good
        assert not VERIFIER(SIGNED[6].with_grant(wrong)), wrong


@given(st.text(alphabet="tree.0123456789ABab+/=\n", max_size=40).map(lambda text: "tree." + text))
def test_reading_a_proof_raises_nothing_but_a_value_error(text: str) -> None:
    try:
        proof = Proof.parse(text)
    except ValueError:
        assert not VERIFIER(plain().with_grant(text))
    else:
        assert proof.text() == text


def test_no_inner_node_passes_for_a_leaf_and_no_leaf_for_a_node() -> None:
    """The second preimage that a tree without prefixes allows: the two hashes of a node, given as a text."""
    tree = Tree(TEXTS[:4])
    first, second = tree.proof(1, bytes(64)).path[0], tree.proof(0, bytes(64)).path[0]
    upper = tree.proof(0, bytes(64)).path[1:]
    for text in (first + second, b"\1" + first + second, b"\0" + first + second):
        shorter = Proof(index=0, size=2, signature=bytes(64), path=upper)
        assert shorter.head(text)[-32:] != tree.head[-32:]
        assert Tree([text]).head[-32:] != Tree(TEXTS[:2]).head[-32:]


def test_the_number_of_leaves_is_signed_with_the_root() -> None:
    """With leaves that go up alone, trees of other sizes can share a path: the head tells them apart."""
    proof = Tree(TEXTS[:4]).proof(0, bytes(64))
    assert replace(proof, size=3).head(TEXTS[0]) != proof.head(TEXTS[0])
    assert replace(proof, size=3).head(TEXTS[0])[-32:] == proof.head(TEXTS[0])[-32:]


def test_the_signature_of_a_tree_is_none_of_a_manifest_nor_the_other_way_round() -> None:
    signature = base64.b64encode(parts(SIGNED[0].grant)[2][:64]).decode()
    assert not VERIFIER(SIGNED[0].with_grant(signature))
    single = SIGNER.sign(plain())
    assert VERIFIER(single)
    assert not VERIFIER(single.with_grant(made(0, 1, base64.b64decode(single.grant))))


def test_a_root_that_another_key_signed_is_refused_also_when_the_same_root_is_known(tmp_path: Path) -> None:
    generate_key(tmp_path / "other.key", tmp_path / "other.pub")
    forged = Signer.load(tmp_path / "other.key").sign_many([plain(n) for n in range(SOME)])
    counting = Counting(PUBLIC)
    assert all(counting(each) for each in SIGNED)
    assert not any(counting(each) for each in forged)
    assert Verifier.load(tmp_path / "other.pub")(forged[0])


def test_a_refusal_is_not_remembered_and_what_is_has_a_bound() -> None:
    counting = Counting(PUBLIC)
    index, size, data = parts(SIGNED[0].grant)
    bad = SIGNED[0].with_grant(made(index, size, bytes(64) + data[64:]))
    for _ in range(3):
        assert not counting(bad)
    assert counting.checks == 3
    first = SIGNER.sign_many([plain(1), plain(2)])
    assert counting(first[0])
    for n in range(grants.REMEMBERED):
        assert counting(SIGNER.sign_many([plain(n + 10), plain(n + 11)])[1])
    before = counting.checks
    assert counting(first[1])
    assert counting.checks == before + 1, "the oldest root is forgotten, and checked again"


def test_without_a_key_no_tree_is_valid_and_with_one_it_is(tmp_path: Path) -> None:
    late = Verifier.load(tmp_path / "grant.pub")
    with pytest.raises(Unavailable):
        late(SIGNED[0])
    (tmp_path / "grant.pub").write_bytes(PUBLIC.read_bytes())
    assert late(SIGNED[0])


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_while_nobody_can_say_what_was_granted_nothing_is_handed_out_and_nothing_is_lost(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim moves several at once and looks at them after; a sweep looks at all."""
    key = tmp_path / "late.pub"
    monkeypatch.setattr(exchange_world, "VERIFIER", Verifier.load(key))
    world = World(kind, tmp_path / "station")
    for n in range(4):
        world.exchange.submit(world.task(f"t-{n}", dependencies=("t-0",) if n == 3 else ()))
    for _ in range(2):
        with pytest.raises(Unavailable, match="no task is handed out"):
            world.exchange.claim("governor", "w1", 3)
        with pytest.raises(Unavailable):
            world.exchange.sweep()
    assert [world.exchange.get(TaskId(f"t-{n}")).state for n in range(4)] == ["ready"] * 3 + ["waiting"]
    key.write_bytes(PUBLIC.read_bytes())
    claims = world.exchange.claim("governor", "w1", 3)
    assert [(claim.manifest.task_id, claim.epoch) for claim in claims] == [(f"t-{n}", 1) for n in range(3)]
    for claim in claims:
        world.exchange.ack(claim, world.ack(claim))
    world.exchange.sweep()
    assert world.claim().manifest.task_id == "t-3"


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_tasks_signed_together_are_handed_out_and_one_under_anothers_grant_is_not(kind: str, tmp_path: Path) -> None:
    world = World(kind, tmp_path)
    tasks = SIGNER.sign_many([world.task(f"t-{n}", sign=False) for n in range(6)])
    tasks[2] = tasks[2].with_grant(tasks[3].grant)
    world.exchange.submit_many(tasks)
    claims = world.exchange.claim("governor", "w1", 6)
    assert [claim.manifest.task_id for claim in claims] == ["t-0", "t-1", "t-3", "t-4", "t-5"]
    assert world.exchange.get(TaskId("t-2")).state == "dead"
    for claim in claims:
        assert VERIFIER(claim.manifest), "as before its effect"
        world.exchange.ack(claim, world.ack(claim))


def as_read(data: bytes) -> Manifest | None:
    """What is believed of these bytes without encoding them anew; None: nothing."""
    try:
        manifest = Manifest.as_signed(data)
    except (InvalidInput, ValueError, RecursionError):
        return None
    return manifest if VERIFIER.valid(manifest) else None


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"objective": '"grant":"x",', "params": {"grant": "x", "a": "b"}, "dependencies": (TaskId("a"), TaskId("b"))},
        {"procedure": 'p","grant":"x', "params": {"": "", "z": '","grant":"'}},
    ],
)
def test_wherever_a_grant_is_put_only_what_was_signed_is_read_with_it(alone: bool, changed: dict[str, object]) -> None:
    """The bytes of a manifest without its grant are taken for what was signed, so nothing else may come out of them."""
    made = replace(plain(), **changed)  # type: ignore[arg-type] # fields of a manifest
    signed = SIGNER.sign(made) if alone else SIGNER.sign_many([made, plain(1)])[0]
    assert as_read(signed.stored_bytes()) == signed
    body, member = signed.signed_bytes(), b'"grant":"%b"' % signed.grant.encode()
    read = 0
    for at in range(len(body) + 1):
        for put in (member, member + b",", b"," + member, b'"":{%b},' % member, b"%b,%b," % (member, member)):
            found = as_read(body[:at] + put + body[at:])
            read += found is not None
            assert found in (None, signed)
    assert read >= len(signed.to_json()) - 1, "between any two of its fields it says the same"
    assert as_read(body) is None
    assert as_read(signed.stored_bytes().replace(b"governor", b"guardian")) is None


def test_what_another_program_wrote_anew_is_still_what_was_signed(tmp_path: Path) -> None:
    world = World("files", tmp_path)
    world.exchange.submit(world.task("a", params={"x": "é"}))
    (record,) = (tmp_path / "svf" / "tasks").glob("*.json")
    value = json.loads(record.read_bytes())
    record.write_text(json.dumps(dict(reversed(value.items())), indent=1), encoding="ascii")
    (claim,) = world.exchange.claim("governor", "w1")
    assert claim.manifest.params == {"x": "é"}
    value["objective"] = "another"
    record.write_text(json.dumps(value))
    with pytest.raises(LeaseLost):
        world.exchange.nack(claim, 0.0, "again")
    assert world.exchange.get(TaskId("a")).state == "dead"
