"""The directory of a ZIP file that a node made, read strictly: one reading of the file is possible, or none.

Theory of operation
-------------------
The directory at the end of a ZIP says what is inside, and nearly everything in it is said twice: in the directory and
in the header before each member. Readers disagree when the two differ, and that is what hostile archives live on. So
nothing is repaired or guessed here. The end record, with its comment, ends where the file does; the directory ends
where it begins; members lie side by side from byte 0 to the directory without gap or overlap; both descriptions of a
member agree. A member's name is a plain file name, its bytes are stored or deflated, and it is a regular file. How many
they are and how large they say they are is checked before any of them is unpacked.

Within that, every layout that Python's ``zipfile`` writes is read: sizes before or after the bytes, in 32 or in 64
bits, and comments, which mean nothing.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

import io
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence

import attrs

from crynux_async.archive.zip_members import ArchiveLimits, Member, read_at

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\5\6"
_LOCAL_SIGNATURE = b"PK\3\4"
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4s3L")
_DESCRIPTOR64 = struct.Struct("<4sL2Q")

_STORED, _DEFLATED = 0, 8
_MOST_RATIO = 1032  # of deflate: 258 bytes from two bits
_NEWEST_VERSION = 45  # 4.5 brought ZIP64; what came later is encryption and other methods
_HAS_DESCRIPTOR = 0x0008
_HARMLESS_FLAGS = 0x0006 | _HAS_DESCRIPTOR | 0x0800  # deflate level, sizes after the data, names are UTF-8
_DOS_FOLDER = 0x10
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA = 0x0001
# Room for a directory entry's extra fields; a ZIP64 field takes 32.
_EXTRA_BYTES = 1024

_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_.+-]*[A-Za-z0-9_+-])?")


def read_directory(file: io.FileIO, limits: ArchiveLimits) -> dict[str, Member]:
    """Read the directory of a ZIP and check it against every member's own header. No member is unpacked.

    Args:
        file: The ZIP, open for reading.
        limits: What is accepted.

    Returns:
        The members by name, in the order of their bytes.

    Raises:
        ValueError: When the file is not one unambiguous ZIP of plain files within the limits.
    """
    size = os.fstat(file.fileno()).st_size
    if size > limits.file_bytes:
        raise ValueError(f"is {size} bytes long; at most {limits.file_bytes} are accepted")
    count, length, start = _read_end(file, size)
    # Before anything is read that is as long as it says.
    if count > limits.members:
        raise ValueError(f"says it holds {count} files; at most {limits.members} are accepted")
    if length > limits.members * (_CENTRAL.size + limits.name_bytes + _EXTRA_BYTES):
        raise ValueError(f"has a directory of {length} bytes, too long for {count} files")
    entries = _parse_entries(read_at(file, start, length), count, limits)
    _check_names([entry.name for entry in entries])
    _check_sizes(entries, limits)
    entries.sort(key=lambda entry: entry.header)
    return _locate(file, entries, start)


def _read_end(file: io.FileIO, size: int) -> tuple[int, int, int]:
    """Return (members, bytes of the directory, where it begins) from the end of the file."""
    if size < _END.size:
        raise ValueError(f"is {size} bytes long, too short for a ZIP")
    end = _find_end(file, size)
    _, disk, first_disk, here, count, length, start, _ = _END.unpack(read_at(file, end, _END.size))
    if disk or first_disk or here != count:
        raise ValueError("is one part of a ZIP in several parts")
    locator = read_at(file, end - _LOCATOR64.size, _LOCATOR64.size) if end >= _LOCATOR64.size else b""
    if locator.startswith(b"PK\6\7"):
        end, (count, length, start) = _read_end64(file, locator, end, (count, length, start))
    if start + length != end:
        raise ValueError("its directory is not where its end record says: bytes were added, lost or put in front")
    if not count:
        raise ValueError("holds no files")
    return count, length, start


def _find_end(file: io.FileIO, size: int) -> int:
    """Return where the end record begins: its comment, if it has one, ends where the file does.

    It is looked for as ``zipfile`` does, from the back. A comment that holds another one is refused.
    """
    # A comment has at most 65,535 bytes.
    begin = max(0, size - _END.size - _FULL16)
    tail = read_at(file, size - _END.size, _END.size)
    if not tail.startswith(_END_SIGNATURE):
        tail = read_at(file, begin, size - begin)
    found = tail.rfind(_END_SIGNATURE)
    if found < 0 or len(tail) - found < _END.size or _END.unpack_from(tail, found)[-1] != len(tail) - found - _END.size:
        raise ValueError("does not end with the end record of a ZIP: it is cut short, or something follows")
    return size - len(tail) + found


def _read_end64(
    file: io.FileIO, locator: bytes, end: int, short: tuple[int, int, int]
) -> tuple[int, tuple[int, int, int]]:
    """Return where the ZIP64 end record begins and what it says; the short record must say the same or nothing."""
    _, disk, where, disks = _LOCATOR64.unpack(locator)
    # A reader that believes the locator and one that looks right before it would see two archives (CVE-2025-8291).
    if disk or disks != 1 or where != end - _LOCATOR64.size - _END64.size:
        raise ValueError("its ZIP64 end record is not where its locator says")
    record = _END64.unpack(read_at(file, where, _END64.size))
    signature, length, _, _, disk, first_disk, here, *long = record
    if signature != b"PK\6\6" or length != _END64.size - 12 or disk or first_disk or here != long[0]:
        raise ValueError("its ZIP64 end record is damaged")
    for value, wide, full in zip(short, long, (_FULL16, _FULL32, _FULL32), strict=True):
        # Section 4.4.1.4: all ones mean "see the wide one"; any other value has to agree with it.
        if value not in (wide, full):
            raise ValueError("its two end records disagree")
    return where, (long[0], long[1], long[2])


@attrs.frozen
class _Entry:
    """One entry of the directory."""

    name: str
    flags: int
    method: int
    stamp: tuple[int, int]
    crc32: int
    packed: int
    size: int
    header: int


def _parse_entries(data: bytes, count: int, limits: ArchiveLimits) -> list[_Entry]:
    entries: list[_Entry] = []
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(data):
            raise ValueError(f"its directory ends after {len(entries)} of {count} entries")
        signature, *fields = _CENTRAL.unpack_from(data, position)
        if signature != b"PK\1\2":
            raise ValueError(f"its directory is damaged after {len(entries)} of {count} entries")
        position += _CENTRAL.size
        name_length, extra_length, comment_length = fields[9:12]
        tail = data[position : position + name_length + extra_length + comment_length]
        if len(tail) < name_length + extra_length + comment_length:
            raise ValueError("its directory ends inside an entry")
        position += len(tail)
        extra = tail[name_length : name_length + extra_length]
        entries.append(_parse_entry(fields, tail[:name_length], extra, limits))
    if position != len(data):
        raise ValueError(f"its directory holds more than the {count} entries it announces")
    return entries


def _parse_entry(fields: Sequence[int], raw_name: bytes, extra: bytes, limits: ArchiveLimits) -> _Entry:
    _, version, flags, method, time, date, crc, packed, size, _, _, _, disk, _, attributes, header = fields
    name = _plain_name(raw_name, limits)
    _check_kind(name, version & 0xFF, flags, method, attributes)
    if disk:
        raise ValueError(f"{name} lies in another part")
    size, packed, header = _widen(name, extra, [size, packed, header])
    if method == _STORED and size != packed:
        raise ValueError(f"{name} is stored, and yet says two sizes: {packed} and {size}")
    return _Entry(name, flags, method, (time, date), crc, packed, size, header)


def _plain_name(raw: bytes, limits: ArchiveLimits) -> str:
    if len(raw) > limits.name_bytes:
        raise ValueError(f"a member's name is {len(raw)} bytes long; at most {limits.name_bytes} are accepted")
    if not _PLAIN_NAME.fullmatch(raw):
        raise ValueError(f"the member name {raw!r} is not a plain file name at the top of the archive")
    return raw.decode("ascii")


def _check_kind(name: str, version: int, flags: int, method: int, attributes: int) -> None:
    if flags & 0x2041:  # encrypted, strongly encrypted, its header masked
        raise ValueError(f"{name} is encrypted")
    if flags & ~_HARMLESS_FLAGS or version > _NEWEST_VERSION:
        raise ValueError(f"{name} needs a feature of ZIP that no node uses")
    if method not in (_STORED, _DEFLATED):
        raise ValueError(f"{name} is packed by method {method}; only stored and deflated are accepted")
    # The upper half is Unix's mode, which zipfile writes; 0 where a writer has none.
    if stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG) or attributes & _DOS_FOLDER:
        raise ValueError(f"{name} is a link, a folder or a device, not a regular file")


def _widen(name: str, extra: bytes, values: list[int]) -> list[int]:
    """Replace 32-bit values that are all ones by those of the ZIP64 extra field, in the order of APPNOTE 4.5.3."""
    if _FULL32 not in values:
        return values
    found = [body for kind, body in _extra_fields(name, extra) if kind == _ZIP64_EXTRA]
    wanted = values.count(_FULL32)
    if len(found) != 1 or len(found[0]) < 8 * wanted:
        raise ValueError(f"{name} announces ZIP64 sizes and does not say them once")
    wide = iter(struct.unpack_from(f"<{wanted}Q", found[0]))
    return [next(wide) if value == _FULL32 else value for value in values]


def _extra_fields(name: str, extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(extra):
        # Zeros that are left over, as aligning tools add them, read as an empty field.
        kind, length = struct.unpack_from("<2H", extra.ljust(position + 4, b"\0"), position)
        body = extra[position + 4 : position + 4 + length]
        if len(body) < length:
            raise ValueError(f"the extra fields of {name} are damaged")
        yield kind, body
        position += 4 + length


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        key = name.casefold()
        if key in seen:
            raise ValueError(f"two members have one name, or would on some disks: {seen[key]} and {name}")
        seen[key] = name


def _check_sizes(entries: Sequence[_Entry], limits: ArchiveLimits) -> None:
    for entry in entries:
        if entry.size > limits.member_bytes:
            raise ValueError(f"{entry.name} unpacks to {entry.size} bytes; at most {limits.member_bytes} are accepted")
        if entry.size > _MOST_RATIO * entry.packed:
            raise ValueError(f"{entry.name} announces {entry.size} bytes, more than {entry.packed} can be unpacked to")
    total = sum(entry.size for entry in entries)
    if total > limits.total_bytes:
        raise ValueError(f"unpacks to {total} bytes; at most {limits.total_bytes} are accepted")


def _locate(file: io.FileIO, entries: Sequence[_Entry], directory: int) -> dict[str, Member]:
    """Read every local header; members must lie side by side from byte 0 to the directory."""
    members: dict[str, Member] = {}
    position = 0
    ends = [*(entry.header for entry in entries[1:]), directory]
    for entry, end in zip(entries, ends, strict=True):
        # Overlapping members are how a small file unpacks to terabytes (CVE-2024-0450, case X2).
        if entry.header != position:
            fault = "overlap" if entry.header < position else "leave a gap"
            raise ValueError(f"members {fault}: {entry.name} begins at byte {entry.header} in place of {position}")
        data = _read_local(file, entry, directory)
        position = data + entry.packed
        if position > directory:
            raise ValueError(f"{entry.name} runs into the directory")
        if entry.flags & _HAS_DESCRIPTOR:
            position += _read_descriptor(file, entry, position, end)
        members[entry.name] = Member(
            name=entry.name,
            size_bytes=entry.size,
            packed_bytes=entry.packed,
            crc32=entry.crc32,
            deflated=entry.method == _DEFLATED,
            offset_bytes=data,
        )
    if position != directory:
        raise ValueError(f"members end at byte {position} and the directory begins at byte {directory}")
    return members


def _read_local(file: io.FileIO, entry: _Entry, directory: int) -> int:
    """Return where the member's bytes begin, after comparing its own header with the directory."""
    if entry.header + _LOCAL.size > directory:
        raise ValueError(f"{entry.name} runs into the directory")
    fields = _LOCAL.unpack(read_at(file, entry.header, _LOCAL.size))
    signature, version, flags, method, time, date, crc, packed, size, name_length, extra_length = fields
    tail = read_at(file, entry.header + _LOCAL.size, name_length + extra_length)
    same = (signature, flags, method, (time, date), tail[:name_length]) == (
        _LOCAL_SIGNATURE,
        entry.flags,
        entry.method,
        entry.stamp,
        entry.name.encode("ascii"),
    )
    if not same or version & 0xFF > _NEWEST_VERSION:
        raise ValueError(f"{entry.name} is described in two ways")
    size, packed = _widen(entry.name, tail[name_length:], [size, packed])
    # With bit 3 set a writer that could not seek leaves zeros here, and says them after the bytes (section 4.4.4).
    later = flags & _HAS_DESCRIPTOR and (crc, packed, size) == (0, 0, 0)
    if not later and (crc, packed, size) != (entry.crc32, entry.packed, entry.size):
        raise ValueError(f"{entry.name} announces two sizes or two checksums")
    return entry.header + _LOCAL.size + len(tail)


def member_at(file: io.FileIO, position: int, limits: ArchiveLimits) -> Member | None:
    """Return what the header at ``position`` says of the member behind it, before the directory is there.

    Args:
        file: The ZIP, or the beginning of one.
        position: Where the last member ended.
        limits: What is accepted.

    Returns:
        The member; to be believed when the directory says the same. None where only the directory can tell.

    Raises:
        ValueError: When it is no member that :func:`read_directory` would accept.
    """
    fields = _LOCAL.unpack(read_at(file, position, _LOCAL.size))
    signature, version, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    if signature != _LOCAL_SIGNATURE or flags & _HAS_DESCRIPTOR:
        return None
    if name_length > limits.name_bytes or extra_length > _EXTRA_BYTES:
        return None
    tail = read_at(file, position + _LOCAL.size, name_length + extra_length)
    name = _plain_name(tail[:name_length], limits)
    _check_kind(name, version & 0xFF, flags, method, 0)
    size, packed = _widen(name, tail[name_length:], [size, packed])
    member = Member(
        name=name,
        size_bytes=size,
        packed_bytes=packed,
        crc32=crc,
        deflated=method == _DEFLATED,
        offset_bytes=position + _LOCAL.size + len(tail),
    )
    is_small_enough = size <= min(limits.member_bytes, _MOST_RATIO * packed)
    return member if is_small_enough and (member.deflated or size == packed) else None


def _read_descriptor(file: io.FileIO, entry: _Entry, position: int, end: int) -> int:
    """Return the length of the description after a member's bytes, which must repeat what the directory says.

    Its length tells whether its sizes have 32 or 64 bits: those of an empty member begin alike.
    """
    told = (b"PK\7\x08", entry.crc32, entry.packed, entry.size)
    for layout in (_DESCRIPTOR, _DESCRIPTOR64):
        if position + layout.size == end and layout.unpack(read_at(file, position, layout.size)) == told:
            return layout.size
    raise ValueError(f"{entry.name} announces two sizes or two checksums")
