/** ZIP archives without compression: how files of one recording, or two recordings, are sent as one body. */

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let crc = n;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** Return the fields that the two headers of an entry share: version, flags (UTF-8 name), stored, no date, sizes. */
function fields(crc, size, nameLength) {
  const view = new DataView(new ArrayBuffer(26));
  view.setUint16(0, 20, true);
  view.setUint16(2, 0x0800, true);
  view.setUint16(8, 0x21, true); // 1 January 1980: a ZIP has no empty date
  view.setUint32(10, crc, true);
  view.setUint32(14, size, true);
  view.setUint32(18, size, true);
  view.setUint16(22, nameLength, true);
  return new Uint8Array(view.buffer);
}

/** Return an archive of `files`: [{name, bytes: Uint8Array}]. */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const encoded = new TextEncoder().encode(name);
    const shared = fields(crc32(bytes), bytes.length, encoded.length);
    parts.push(Uint8Array.of(0x50, 0x4b, 3, 4), shared, encoded, bytes);
    const entry = new DataView(new ArrayBuffer(14));
    entry.setUint32(10, offset, true);
    directory.push(Uint8Array.of(0x50, 0x4b, 1, 2, 20, 0), shared, new Uint8Array(entry.buffer), encoded);
    offset += 30 + encoded.length + bytes.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...directory, end.buffer], { type: "application/zip" });
}
