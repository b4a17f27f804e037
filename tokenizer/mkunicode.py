#!/usr/bin/env python3
"""Writes unicode_tables.h: for every code point whether it is \\p{L}, \\p{N}, \\s or none of them.

The Unicode version must be the one of the reference's regular expressions (regex-syntax 0.8: 16.0),
or letters assigned since would be split differently.  Python's own unicodedata is often of another
version; then `pip install unicodedata2==16.0.0`.

usage: mkunicode.py > unicode_tables.h
"""
import sys

VERSION = "16.0.0"
try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata
if unicodedata.unidata_version != VERSION:
    sys.exit(f"mkunicode.py: need Unicode {VERSION}, this is {unicodedata.unidata_version}: "
             f"pip install unicodedata2=={VERSION}")

OTHER, LETTER, NUMBER, SPACE = range(4)
# the White_Space property; unicodedata does not have it, and it has not changed since Unicode 6.3
WHITE = {*range(0x09, 0x0e), 0x20, 0x85, 0xa0, 0x1680, *range(0x2000, 0x200b),
         0x2028, 0x2029, 0x202f, 0x205f, 0x3000}


def cls(c):
    if c in WHITE:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(chr(c))[0], OTHER)


def table(kind, name, values, per_line, form):
    print(f"static const {kind} {name}[{len(values)}] = {{")
    for i in range(0, len(values), per_line):
        print("    " + ",".join(form % v for v in values[i:i + per_line]) + ",")
    print("};\n")


blocks, index = {}, []
for page in range(0x1100):                      # 256 code points a page, four to a byte
    c = [cls(page * 256 + i) for i in range(256)]
    packed = tuple(c[i] | c[i + 1] << 2 | c[i + 2] << 4 | c[i + 3] << 6 for i in range(0, 256, 4))
    index.append(blocks.setdefault(packed, len(blocks)))
assert len(blocks) <= 256

print(f"""/* Character classes of Unicode {VERSION}; written by mkunicode.py, do not edit.
 * A page is 256 code points of 2 bits each: 0 none, 1 \\p{{L}}, 2 \\p{{N}}, 3 \\s. */
#ifndef DBRX_UNICODE_TABLES_H
#define DBRX_UNICODE_TABLES_H

#define UNICODE_TABLES_VERSION "{VERSION}"
""")
table("unsigned char", "unicode_page", index, 22, "%d")
table("unsigned char", "unicode_class", [b for block in blocks for b in block], 22, "%d")
print("#endif")
