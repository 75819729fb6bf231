"""The names of DNS's numbers, as IANA has registered them."""

from __future__ import annotations

from collections.abc import Callable

A, CNAME, SOA, MX, AAAA, SRV, OPT, NSEC = 1, 5, 6, 15, 28, 33, 41, 47
NAMES = frozenset({2, 5, 12, 39})
"""Types whose data is one name: NS, CNAME, PTR, DNAME."""
TEXTS = frozenset({16, 99})
"""Types whose data is character strings: TXT, SPF."""


def _numbered(first: int, names: str) -> dict[int, str]:
    return dict(enumerate(names.split(), first))


_TYPES = {
    **_numbered(1, "A NS MD MF CNAME SOA MB MG MR NULL WKS PTR HINFO MINFO MX TXT RP AFSDB X25"),
    **_numbered(20, "ISDN RT NSAP NSAP-PTR SIG KEY PX GPOS AAAA LOC NXT EID NIMLOC SRV ATMA"),
    **_numbered(35, "NAPTR KX CERT A6 DNAME SINK OPT APL DS SSHFP IPSECKEY RRSIG NSEC DNSKEY"),
    **_numbered(49, "DHCID NSEC3 NSEC3PARAM TLSA SMIMEA"),
    **_numbered(55, "HIP NINFO RKEY TALINK CDS CDNSKEY OPENPGPKEY CSYNC ZONEMD"),
    **_numbered(64, "SVCB HTTPS DSYNC HHIT BRID"),
    **_numbered(99, "SPF UINFO UID GID UNSPEC NID L32 L64 LP EUI48 EUI64"),
    **_numbered(128, "NXNAME"),
    **_numbered(249, "TKEY TSIG IXFR AXFR MAILB MAILA ANY URI CAA AVC DOA"),
    **_numbered(260, "AMTRELAY RESINFO WALLET CLA IPN"),
    **_numbered(32768, "TA DLV"),
}
_CLASSES = {1: "IN", 2: "CS", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
_OPCODES = _numbered(0, "QUERY IQUERY STATUS 3 NOTIFY UPDATE DSO")
_RCODES = {
    **_numbered(0, "NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSET"),
    **_numbered(9, "NOTAUTH NOTZONE DSOTYPENI"),
    **_numbered(16, "BADVERS BADKEY BADTIME BADMODE BADNAME BADALG BADTRUNC BADCOOKIE"),
}
"""16 is EDNS's: TSIG's errors are in a record of their own, behind NOTAUTH."""


def type_text(number: int) -> str:
    """Return the name of a record type; ``TYPE`` and its number where it has none (RFC 3597)."""
    return _TYPES.get(number, f"TYPE{number}")


def is_type(text: str) -> bool:
    """Tell whether a message can have this type, or type and class, as in ``TXT/CH``."""
    name, slash, kind = text.partition("/")
    return _is_code(name, type_text) and (not slash or _is_code(kind, class_text))


def _is_code(text: str, text_of: Callable[[int], str]) -> bool:
    """Tell whether `text_of` returns this for a number of 16 bits."""
    return any(text_of(number) == text for number in range(1 << 16))


def class_text(number: int) -> str:
    """Return the name of a class; ``CLASS`` and its number where it has none (RFC 3597)."""
    return _CLASSES.get(number, f"CLASS{number}")


def opcode_text(number: int) -> str:
    """Return the name of an operation, or its number."""
    return _OPCODES.get(number, str(number))


def rcode_text(number: int) -> str:
    """Return the name of a response code, or its number."""
    return _RCODES.get(number, str(number))
