package sys

import (
	"encoding/binary"
	"unsafe"
)

// Birth is when an object was made, in nanoseconds (statx(2), Linux 4.11); 0 where the file system does not say. With
// the inode number it names an object for good: writing, renaming and linking leave it alone.
func Birth(dir int, name string) int64 {
	const wanted, emptyPath, at = 0x800, AtEmptyPath | AtSymlinkNofollow, 80
	var st [256]byte
	p := cstr(name)
	_, err := call(nrStatx, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(emptyPath), wanted, uintptr(unsafe.Pointer(&st)))
	if err != nil || binary.NativeEndian.Uint32(st[:])&wanted == 0 {
		return 0
	}
	return int64(binary.NativeEndian.Uint64(st[at:]))*1e9 + int64(binary.NativeEndian.Uint32(st[at+8:]))
}
