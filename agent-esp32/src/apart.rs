//! Futures with stack frames of their own.

use core::pin::Pin;
use core::task::{Context, Poll};

/// A future that is polled in a function of its own. All that a task awaits otherwise becomes
/// one function, whose frame has room for what any part of it needs, at all times.
pub(crate) struct Apart<'a, F>(pub(crate) Pin<&'a mut F>);

impl<F: Future> Future for Apart<'_, F> {
    type Output = F::Output;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.0.as_mut().poll(cx)
    }
}
