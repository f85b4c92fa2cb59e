#!/usr/bin/env python3
"""Renders frames of a zoom into the Mandelbrot set as PNG files in the working directory.

    render.py FIRST LAST [WIDTH HEIGHT]

Uses numpy where there is one; the frames are the same without.
"""

import struct
import sys
import zlib

CENTRE = -0.743643887037151, 0.131825904205330
STEPS = 120


def escapes_plain(xs, ys):
    """Steps until each point has escaped, a row at a time."""
    for y in ys:
        row = []
        for x in xs:
            zx = zy = 0.0
            steps = 0
            while steps < STEPS and zx * zx + zy * zy <= 4.0:
                zx, zy = zx * zx - zy * zy + x, 2.0 * zx * zy + y
                steps += 1
            row.append(steps)
        yield row


def escapes_numpy(numpy, xs, ys):
    for y in ys:
        cx = numpy.array(xs)
        zx = numpy.zeros_like(cx)
        zy = numpy.zeros_like(cx)
        steps = numpy.zeros(len(xs), dtype=int)
        for _ in range(STEPS):
            inside = zx * zx + zy * zy <= 4.0
            steps += inside
            next_x = numpy.where(inside, zx * zx - zy * zy + cx, zx)
            zy = numpy.where(inside, 2.0 * zx * zy + y, zy)
            zx = next_x
        yield steps.tolist()


def colour(steps):
    if steps == STEPS:
        return 0, 0, 0
    return steps * 5 % 256, steps * 9 % 256, 64 + steps * 3 % 192


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, rows):
    raw = b"".join(b"\0" + bytes(part for steps in row for part in colour(steps)) for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")


def main(first, last, width=160, height=100):
    try:
        import numpy  # noqa: PLC0415 (where there is none, the frames take longer)
    except ImportError:
        numpy = None
    for frame in range(first, last + 1):
        scale = 3.0 * 0.8**frame
        xs = [CENTRE[0] + scale * (i / width - 0.5) for i in range(width)]
        ys = [CENTRE[1] + scale * height / width * (i / height - 0.5) for i in range(height)]
        rows = escapes_numpy(numpy, xs, ys) if numpy else escapes_plain(xs, ys)
        with open(f"frame-{frame:04d}.png", "wb") as file:
            file.write(png(width, height, rows))
        print(f"frame {frame}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 5):
        sys.exit("usage: render.py FIRST LAST [WIDTH HEIGHT]")
    main(*map(int, sys.argv[1:]))
