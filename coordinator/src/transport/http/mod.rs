//! The REST API, `/api/v1`.
//!
//! Every route is declared with its permission through [`Routes`], the only way
//! to a [`Router`] here. The same router is served on the Unix socket (its
//! owner and root may do everything) and on TCP, where operators' routes answer
//! 401 until somebody can sign in.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;

use crate::service::operator::Operator;

mod audit;
mod auth;
mod connections;
mod convert;
mod devices;
mod error;
mod keys;
pub mod metrics;
mod network_report;
mod networks;
mod policies;
mod relays;
pub mod routes;
mod tombstones;
pub mod unix;
mod usage;
mod warm;

pub use auth::{Permission, SocketPeer};
pub use routes::{Declared, Routes};

/// The largest body that any route reads, in bytes.
const BODY: usize = 256 * 1_024;

/// What operators' handlers stand on.
pub type Shared = Arc<Operator>;

/// All routes of operators.
pub fn operator_routes() -> Routes<Shared> {
    let routes = Routes::new();
    let routes = networks::declare(routes);
    let routes = keys::declare(routes);
    let routes = devices::declare(routes);
    let routes = connections::declare(routes);
    let routes = tombstones::declare(routes);
    let routes = usage::declare(routes);
    let routes = warm::declare(routes);
    let routes = policies::declare(routes);
    let routes = relays::declare(routes);
    audit::declare(routes)
}

/// The whole router: operators' routes, what was counted, and the routes for
/// devices with what they stand on.
pub fn router<S>(operator: Shared, metrics: Router, devices: Routes<S>, state: S) -> Router
where
    S: Clone + Send + Sync + 'static,
{
    let operators = operator_routes().into_router().with_state(operator);
    operators
        .merge(metrics)
        .merge(devices.into_router().with_state(state))
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(axum::middleware::from_fn(error::give_request_id))
}
