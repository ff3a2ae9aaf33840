//! Tables with nothing in them.

/// `N` places with nothing in each.
///
/// A call, because the compiler makes what a call returns where it is to lie: an array
/// expression in a larger value is made on the stack and moved, which a chip has no room for.
#[inline(never)]
pub(crate) const fn nothing<T, const N: usize>() -> [Option<T>; N] {
    [const { None }; N]
}
