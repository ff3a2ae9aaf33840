# Sourced: lines of progress as `area   what happened   time`.

# seconds SINCE: time since a value of $EPOCHREALTIME, with one decimal.
seconds() {
    local now=${EPOCHREALTIME/[.,]/} since=${1/[.,]/}
    local tenths=$(((now - since) / 100000))
    printf '%d.%d s' $((tenths / 10)) $((tenths % 10))
}

# step AREA TEXT SINCE: one finished step.
step() {
    printf '%-7s %-58s %10s\n' "$1" "$2" "$(seconds "$3")"
}
