//! Routes, each declared with its permission.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{MethodFilter, on};

use super::auth::{Permission, guard};

/// A route as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its method.
    pub method: Method,
    /// Its path, with `{names}`.
    pub path: &'static str,
    /// What its caller must be allowed.
    pub permission: Permission,
}

/// Collects routes. There is no way to add one without a permission.
pub struct Routes<S> {
    router: Router<S>,
    declared: Vec<Declared>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes yet.
    pub fn new() -> Self {
        Self { router: Router::new(), declared: Vec::new() }
    }

    /// Declares a GET route.
    #[must_use]
    pub fn get<T: 'static>(
        self,
        path: &'static str,
        permission: Permission,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add(Method::GET, MethodFilter::GET, path, permission, handler)
    }

    /// Declares a POST route.
    #[must_use]
    pub fn post<T: 'static>(
        self,
        path: &'static str,
        permission: Permission,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add(Method::POST, MethodFilter::POST, path, permission, handler)
    }

    /// Declares a PUT route.
    #[must_use]
    pub fn put<T: 'static>(
        self,
        path: &'static str,
        permission: Permission,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add(Method::PUT, MethodFilter::PUT, path, permission, handler)
    }

    /// Declares a PATCH route.
    #[must_use]
    pub fn patch<T: 'static>(
        self,
        path: &'static str,
        permission: Permission,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add(Method::PATCH, MethodFilter::PATCH, path, permission, handler)
    }

    /// Declares a DELETE route.
    #[must_use]
    pub fn delete<T: 'static>(
        self,
        path: &'static str,
        permission: Permission,
        handler: impl Handler<T, S>,
    ) -> Self {
        self.add(Method::DELETE, MethodFilter::DELETE, path, permission, handler)
    }

    fn add<T: 'static>(
        mut self,
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        permission: Permission,
        handler: impl Handler<T, S>,
    ) -> Self {
        let check = from_fn(move |request, next| guard(permission, request, next));
        self.router = self.router.route(path, on(filter, handler).layer(check));
        self.declared.push(Declared { method, path, permission });
        self
    }

    /// What was declared, for tests that walk over every route.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    pub(in crate::transport) fn into_router(self) -> Router<S> {
        self.router
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}
