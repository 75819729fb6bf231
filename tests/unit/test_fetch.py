"""Fetch arguments, compiled from C expressions over a few types."""

from __future__ import annotations

import dataclasses

import pytest

from tcptrace.errors import TcptraceError
from tcptrace.kernel import btf
from tcptrace.kernel.btf import Btf, Parameter, Type
from tcptrace.kernel.fetch import fetch_arguments, zeros

CONST, FUNC_PROTO = 10, 13


@dataclasses.dataclass
class Described:
    """A type: what it stands for, its size in bytes, its members with their offsets in bits."""

    kind: int
    name: str = ""
    target: str = ""
    size: int = 0
    members: tuple[tuple[str, str, int], ...] = ()
    number: int = 0


TYPES = {
    "u8": Described(btf.KIND_INT, size=1),
    "u16": Described(btf.KIND_INT, size=2),
    "u32": Described(btf.KIND_INT, size=4),
    "__be16": Described(btf.KIND_TYPEDEF, "__be16", "u16", 2),
    "words": Described(btf.KIND_ARRAY, target="u32", size=16, number=4),
    "const net": Described(CONST, target="net"),
    "net *": Described(btf.KIND_POINTER, target="const net", size=8),
    "sock *": Described(btf.KIND_POINTER, target="sock", size=8),
    "socket *": Described(btf.KIND_POINTER, target="socket", size=8),
    "net": Described(btf.KIND_STRUCT, "net", size=200, members=(("inum", "u32", 8 * 136),)),
    "ports": Described(
        btf.KIND_STRUCT, members=(("skc_dport", "__be16", 0), ("skc_num", "u16", 16))
    ),
    "union": Described(btf.KIND_UNION, members=(("skc_portpair", "u32", 0), ("", "ports", 0))),
    "common": Described(
        btf.KIND_STRUCT,
        "sock_common",
        members=(("", "union", 96), ("skc_daddr6", "words", 448), ("skc_net", "net *", 384)),
    ),
    "sock": Described(
        btf.KIND_STRUCT,
        "sock",
        members=(
            ("__sk_common", "common", 0),
            ("sk_uid", "u32", 8 * 528),
            ("sk_bit", "u8", 8 * 20 | 1 << 24),
        ),
    ),
    "inet_sock": Described(btf.KIND_STRUCT, "inet_sock", members=(("sport", "__be16", 8 * 814),)),
    "socket": Described(btf.KIND_STRUCT, "socket", members=(("sk", "sock *", 8 * 24),)),
}
IDS = {name: number for number, name in enumerate(TYPES, 1)}
NAMES = {number: name for name, number in IDS.items()}


class FakeTypes(Btf):
    """A kernel with these types, and one function of a socket and a sock."""

    def __init__(self) -> None:
        """Load nothing."""

    def id_of(self, name: str, kind: int) -> int:
        """Return the id of a struct."""
        return next((IDS[key] for key, type_ in TYPES.items() if type_.name == name), 0)

    def type(self, type_id: int) -> Type:
        """Return a type by its id; its address is its id."""
        type_ = TYPES[NAMES[type_id]]
        return Type(type_.kind, type_.name, IDS.get(type_.target, 0), len(type_.members), type_id)

    def size(self, type_id: int) -> int:
        """Return a type's size."""
        return TYPES[NAMES[type_id]].size

    def element(self, type_id: int) -> tuple[int, int]:
        """Return an array's elements."""
        type_ = TYPES[NAMES[type_id]]
        return IDS[type_.target], type_.number

    def parameter(self, function: str, name: str) -> Parameter | None:
        """Return a parameter of the function."""
        parameters = {"sock": Parameter(IDS["socket *"], 1), "newsk": Parameter(IDS["sock *"], 3)}
        return parameters.get(name)

    def _members(self, struct: Type) -> list[tuple[str, int, int]]:  # type: ignore[override]
        members = TYPES[NAMES[struct.address]].members
        return [(name, IDS[kind], bits) for name, kind, bits in members]


def fetched(expression: str) -> list[str]:
    """Compile an expression, as `it`."""
    return fetch_arguments(FakeTypes(), "__inet_accept", "it", expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("newsk", "it=$arg3:u64"),
        ("newsk->sk_uid", "it=+528($arg3):u32"),
        ("sock->sk", "it=+24($arg1):u64"),
        ("sock->sk->sk_uid", "it=+528(+24($arg1)):u32"),
        ("newsk->__sk_common.skc_num", "it=+14($arg3):u16"),
        ("newsk->__sk_common.skc_net->inum", "it=+136(+48($arg3)):u32"),
        ("newsk->__sk_common.skc_dport", "it_0=+12($arg3):u8 it_1=+13($arg3):u8"),
        ("((struct inet_sock *)newsk)->sport", "it_0=+814($arg3):u8 it_1=+815($arg3):u8"),
        (
            "((struct inet_sock *)sock->sk)->sport",
            "it_0=+814(+24($arg1)):u8 it_1=+815(+24($arg1)):u8",
        ),
        (
            "newsk->__sk_common.skc_daddr6",
            " ".join(f"it_{n}=+{56 + 4 * n}($arg3):u32" for n in range(4)),
        ),
        ("$comm", "it=$comm"),
        ("$retval", "it=$retval:s32"),
    ],
)
def test_expression(expression: str, expected: str) -> None:
    """Pointers are dereferenced, members found in anonymous ones, network order taken apart."""
    assert expected.split() == fetched(expression)


@pytest.mark.parametrize(
    ("expression", "missing"),
    [
        ("newsk->sk_protocol", "member sk_protocol"),
        ("newsk->sk_bit", "member sk_bit"),
        ("parent->sk", "parameter parent of __inet_accept"),
        ("((struct mptcp_sock *)newsk)->first", "struct mptcp_sock"),
    ],
)
def test_what_this_kernel_lacks_is_named(expression: str, missing: str) -> None:
    """A member, a parameter or a struct that is not there, and a bit-field, are errors."""
    with pytest.raises(TcptraceError, match=missing):
        fetched(expression)


def test_zeros_stand_for_what_a_kernel_lacks() -> None:
    """They have the names and sizes of what would have been fetched."""
    assert ["it=\\0:u32"] == zeros("it", 1)
    assert ["it_0=\\0:u32", "it_1=\\0:u32"] == zeros("it", 2)
