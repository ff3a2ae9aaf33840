//! libFuzzer's program: one binary for every target, which `WEFT_FUZZ_TARGET`
//! names. Built and run by `cargo xtask fuzz`.
#![no_main]

use std::sync::LazyLock;

use weft_fuzz::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("WEFT_FUZZ_TARGET").unwrap_or_default();
    weft_fuzz::find(&name).unwrap_or_else(|| panic!("WEFT_FUZZ_TARGET names no target: {name:?}"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| (TARGET.run)(data));
