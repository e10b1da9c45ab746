"""Image files that the libraries read and do not write: few bits in a sample, 16-bit PNG with transparency."""

import struct
import zlib

import numpy as np


def write_bits(path, values, bits, photometric, palette=None):
    """A TIFF of samples of so many bits, which tifffile does not write: each row packed to whole bytes."""
    height, width = values.shape
    if bits == 16:
        strip = values.astype("<u2").tobytes()
    else:
        spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        strip = np.packbits(spread.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits]), (259, 3, [1]), (262, 3, [photometric])]
    tags += [(273, 4, [8]), (277, 3, [1]), (278, 3, [height]), (279, 4, [len(strip)])]
    if palette is not None:
        tags.append((320, 3, palette.ravel().tolist()))
    strip += b"\0" * (len(strip) % 2)
    entries, more = b"", b""
    after = 8 + len(strip) + 2 + 12 * len(tags) + 4
    for tag, kind, numbers in tags:
        data = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(data) > 4:
            value, more = struct.pack("<I", after + len(more)), more + data
        else:
            value = data.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + value
    head = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    path.write_bytes(head + strip + struct.pack("<H", len(tags)) + entries + bytes(4) + more)


def png_of(bits, kind, samples, *chunks):
    """A PNG with samples `(h, bytes)` that Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        spread = (samples.reshape(height, -1)[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in spread]
    assert samples.size == height * width * count
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *(chunk(*c) for c in chunks), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
