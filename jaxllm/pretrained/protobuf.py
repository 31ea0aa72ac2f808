"""Protocol buffers, as far as a checkpoint's index needs them: bytes in, fields out.

The encoding (protobuf.dev/programming-guides/encoding): a tag with the number of the
field and the kind of its value, then the value, and so on. What a field is called, and
what it stands for, is in the definition of the message, not in the bytes.
"""


def read_message(data: bytes, *, repeated: int | None = None) -> dict:
    """Read a protocol buffer: the number of each field to its value.

    Args:
        repeated: the field whose values are gathered in a list.

    >>> read_message(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69]))
    {1: 150, 2: b'hi'}
    """
    fields: dict = {}
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = read_varint(data, position)
        elif kind == 2:
            size, position = read_varint(data, position)
            value, position = data[position : position + size], position + size
        elif kind in (1, 5):
            size = {1: 8, 5: 4}[kind]
            value = int.from_bytes(data[position : position + size], "little")
            position += size
        else:
            raise ValueError(f"a protocol buffer has no wire type {kind}")
        if number == repeated:
            fields.setdefault(number, []).append(value)
        else:
            fields[number] = value
    if position != len(data):
        raise ValueError("a protocol buffer ends in the middle of a field")
    return fields


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, lowest first; return it and where it ends.

    >>> read_varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
