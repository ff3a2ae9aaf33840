#!/bin/sh
# Runs a firmware in the emulated chip. Its flash memory is flash.bin: without the file
# the next start is a new device. Ctrl-A x ends it.
set -eu
flash=flash.bin
[ -e "$flash" ] || head -c 65536 /dev/zero | tr '\0' '\377' >"$flash"
exec qemu-system-riscv32 -M virt -bios none -nographic -m 16M -kernel "$1" \
    -global virtio-mmio.force-legacy=false \
    -netdev user,id=net -device virtio-net-device,netdev=net \
    -drive "if=none,id=flash,format=raw,file=$flash" -device virtio-blk-device,drive=flash \
    -device virtio-rng-device
