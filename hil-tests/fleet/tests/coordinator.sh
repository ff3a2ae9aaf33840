#!/bin/sh
# Stands for the coordinator, by a link in a test's folder: nothing at `init`,
# and at `serve` what the file `serve` beside the link says.
here=${0%/*}
[ "$1" = init ] && exit 0
echo $$ >"$here/pid"
. "$here/serve"
